-- ExchangeV3 joins the chain's generations. A slice of the chain now names the generations that it brings, because a
-- slice that an earlier version has read holds V2 alone: a backfill reads the others of it, and nothing twice.
alter table ${raw}.order_filled ${on_cluster}
    comment column contract_version 'v1, v2 or v3: generation of the exchange contract',
    comment column maker_asset_id 'v1: asset given by the order, 0 is collateral; empty for v2 and v3',
    comment column taker_asset_id 'v1: asset received by the order, 0 is collateral; empty for v2 and v3',
    comment column side 'v2 and v3: BUY or SELL, side of the order; empty for v1',
    comment column token_id 'v2: outcome token, v3: position id, decimal; empty for v1',
    comment column fee '1e-6 units; v1: of the asset received, v2 and v3: of collateral',
    comment column builder 'v2 and v3: builder code; empty if none';

alter table ${raw}.backfill_slices ${on_cluster}
    add column if not exists versions LowCardinality(String)
        comment 'chain: generations that the slice brings, by comma; empty: of the archive, or v2 by an earlier version'
        after to_at,
    modify order by (source, from_at, to_at, versions);
