"""The ClickHouse settings on which results depend, pinned for everything that this project sends.

A user's profile may set them otherwise: nulls instead of defaults in outer joins, partial results where a limit is
reached. `dbt_project.yml` pins the same for views, which run with the settings of their readers.
"""

from __future__ import annotations

# Rows of an insert that share a key are merged later, or by FINAL, and not while they are inserted: an insert needs a third
# less CPU so, and a block of ours has few such rows. No result depends on it.
UNMERGED: dict[str, str | int] = {"optimize_on_insert": 0}

PINNED: dict[str, str | int] = {
    "aggregate_functions_null_for_empty": 0,
    "any_join_distinct_right_table_keys": 0,
    "cast_keep_nullable": 0,
    "data_type_default_nullable": 0,
    "decimal_check_overflow": 1,
    "distinct_overflow_mode": "throw",
    "empty_result_for_aggregation_by_empty_set": 0,
    "final": 0,
    "group_by_overflow_mode": "throw",
    "group_by_use_nulls": 0,
    "join_default_strictness": "ALL",
    "join_overflow_mode": "throw",
    "join_use_nulls": 0,
    "materialized_views_ignore_errors": 0,
    "prefer_column_name_to_alias": 0,
    "read_overflow_mode": "throw",
    "result_overflow_mode": "throw",
    "session_timezone": "UTC",
    "set_overflow_mode": "throw",
    "single_join_prefer_left_table": 1,
    "sort_overflow_mode": "throw",
    "timeout_overflow_mode": "throw",
    "transform_null_in": 0,
}
