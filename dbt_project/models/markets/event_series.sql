-- A series that an event names twice counts once.
select
    event_id,
    series_id,
    series_slug,
    series_title,
    recurrence
from {{ ref('events') }}
array join
    series_ids as series_id,
    series_slugs as series_slug,
    series_titles as series_title,
    series_recurrences as recurrence,
    arrayEnumerateUniq(series_ids) as occurrence
where occurrence = 1 and series_id != ''
