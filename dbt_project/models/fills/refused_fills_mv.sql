{{ config(materialized='materialized_view', catchup=false, enabled=is_production()) }}
{{ materialization_target_table(source('polymarket_raw', 'dead_letter_sightings')) }}
select
    source,
    multiIf(
        contract_version not in ({{ contract_versions() }}), 'unknown_contract_version',
        'unknown_exchange'
    ) as reason,
    cityHash64(timestamp, tx_hash, log_index, order_hash) as payload_hash,
    if(
        reason = 'unknown_contract_version',
        concat('contract version ''', contract_version, ''' is not known, so side, token and fee cannot be read'),
        concat('exchange ''', exchange, ''' is not a known exchange of contract version ', contract_version)
    ) as detail,
    toJSONString(map(
        'timestamp', toString(timestamp),
        'block_number', toString(block_number),
        'log_index', toString(log_index),
        'tx_hash', tx_hash,
        'order_hash', order_hash,
        'contract_version', contract_version,
        'exchange', exchange,
        'maker', maker,
        'taker', taker,
        'maker_asset_id', maker_asset_id,
        'taker_asset_id', taker_asset_id,
        'side', side,
        'token_id', token_id,
        'maker_amount', toString(maker_amount),
        'taker_amount', toString(taker_amount),
        'fee', toString(fee),
        'builder', builder
    )) as payload,
    now64(6, 'UTC') as seen_at,
    load_id
from {{ source('polymarket_raw', 'order_filled') }}
where not {{ is_known_exchange() }} and is_deleted = 0
{{ pinned_settings() }}
