-- What the second reading of the chain found that the first one had missed, or had and should not have.
create table if not exists ${raw}.late_fills ${on_cluster}
(
    block_number UInt64 comment 'block whose fills differed',
    load_id UInt64 comment 'load that brought the difference',
    fills UInt32 comment 'fills that the first reading had missed',
    taken_back UInt32 comment 'fills that had landed and are not in the block',
    endpoint LowCardinality(String) comment 'who was asked the second time: kind and host',
    found_at DateTime64(6, 'UTC') comment 'when'
)
engine = ${replicated}ReplacingMergeTree
order by (block_number, load_id)
comment 'Differences between the first and the second reading of the chain, one row per block and load';

-- The second reading and reorganisations ask for fills by block.
alter table ${raw}.order_filled ${on_cluster}
add index if not exists ix_block block_number type minmax granularity 1;
