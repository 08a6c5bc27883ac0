-- A tag that an event names twice counts once.
select
    event_id,
    tag_slug,
    tag,
    tag_id
from {{ ref('events') }}
array join
    tag_slugs as tag_slug,
    tags as tag,
    tag_ids as tag_id,
    arrayEnumerateUniq(tag_slugs) as occurrence
where occurrence = 1 and tag_slug != ''
