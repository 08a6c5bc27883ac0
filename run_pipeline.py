"""Polymarket into ClickHouse: `python run_pipeline.py` runs one cycle; `--help` lists the other verbs."""

from pipeline.verbs.cli import main

if __name__ == "__main__":
    main()
