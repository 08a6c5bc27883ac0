"""Public archives of fills as Parquet files, which ClickHouse reads by itself: no row passes through Python.

`places.py` says which files a pattern means, `layouts.py` which columns of a file are which fields of a fill (data, in
`layouts/`), `spellings.py` how a value is read whatever its type, `statements.py` what ClickHouse is told. A file whose
layout is not known is refused; a row that is no fill becomes a dead letter.

Promises the rows that the other sources would have brought: fills of the layouts with a log index have the identity of
the chain's rows, those without one that of the V1 archive's rows, so the same fill from both is one row.
"""

NAME = "parquet"
