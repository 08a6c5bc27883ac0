{{ events_from_payload() }}
