{{ markets_from_payload() }}
