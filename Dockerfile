# The pipeline, its dbt project and the embedded ClickHouse. Without a verb it runs cycles until stopped.
# The Python version is the one that constraints.txt is tested with.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1
WORKDIR /app

# The dependencies alone, without dev extras: a layer that a change of the code leaves in the cache.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > /tmp/requirements.txt \
    && pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt

COPY . .

# The code belongs to root. What a run writes to belongs to its user; a new named volume takes that over.
RUN useradd --create-home --uid 10001 pipeline \
    && mkdir -p data/clickhouse data/dlt dbt_project/logs dbt_project/target \
    && chown -R pipeline:pipeline data dbt_project/logs dbt_project/target
USER 10001

STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "run_pipeline.py"]
CMD ["loop"]
