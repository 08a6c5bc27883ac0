-- What dbt last built: the settling statements of the models, so that a run needs dbt only when the project changed.
create table if not exists ${raw}.model_deployments ${on_cluster}
(
    project_hash String comment 'SHA-256 over the files of dbt_project/ and the settings that shape the models',
    deployed_at DateTime64(6, 'UTC') comment 'when dbt built them',
    statements String comment 'JSON array of {model, landing_table, sql}, in the order in which they settle' codec(ZSTD(3))
)
engine = ${replicated}ReplacingMergeTree(deployed_at)
order by project_hash
comment 'Deployed versions of the dbt project, with their compiled settling statements';
