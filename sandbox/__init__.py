"""A simulated Polymarket on loopback: the demo, the tests and the benchmarks run against it.

`world` makes matches and mines blocks, from a seed; `gamma`, `goldsky` and `polygon` each serve one
upstream over plain data and can be mounted over rows written by hand; `server` puts them on a port;
`truth` says what a correct pipeline arrives at. Nothing here imports the pipeline it tests.
"""
