"""What a user of the engine may do, by the engine's own grants: its configuration, written at each start.

chDB has one user. It gets its rights from two roles, `owner` and `reader`, and each connection of
the front switches one of them on. Neither may shut the engine down; sources outside of ClickHouse
(`url`, `s3`, `remote` and such) are granted only where a setting names them, and files only where
the kernel keeps them to the allowed folders (see `landlock`).

`default` is an ordinary database. In clickhouse-local, from which chDB descends, it is an overlay
that reads paths as tables; that overlay is moved to a database of its own, which nobody may see.
"""

import uuid
from collections.abc import Collection, Iterable
from pathlib import Path
from xml.sax.saxutils import escape

from embedded_clickhouse.backups import Folders
from embedded_clickhouse.protocol import OWNER_ROLE

READER_ROLE = "reader"
OVERLAY = "_paths"
# Names of the engine's privileges on sources. FILE is not among them, see above.
SOURCES = (
    *("AZURE", "HDFS", "HIVE", "JDBC", "KAFKA", "MONGO", "MYSQL", "NATS", "ODBC", "POSTGRES"),
    *("RABBITMQ", "REDIS", "REMOTE", "S3", "URL"),
)
# Settings that name files, which are read without a look at any grant.
_FILE_SETTINGS = (
    *("format_schema", "format_template_row", "format_template_resultset"),
    *("format_avro_schema_registry_url",),
)

# Bounds of the read-only user, those of docker/users.d/dashboard.xml.
READER_SETTINGS = {
    "max_memory_usage": "1000000000",
    "max_execution_time": "30",
    "max_result_rows": "1000000",
}


def write_configuration(
    engine: Path, files: Path, sources: Collection[str], has_files: bool
) -> Path:
    """Write the engine's configuration, and return its path.

    Args:
        engine: chDB's folder.
        files: where `file()` looks for relative paths.
        sources: names of `SOURCES` that the owner may use.
        has_files: whether the owner may read and write files; only where the kernel keeps them to `files`.
    """
    folder = engine.parent / "config"
    folder.mkdir(mode=0o700, exist_ok=True)
    granted = [*sources, *(["FILE"] if has_files else [])]
    (folder / "users.xml").write_text(_users(granted))
    values = {
        "users_config": folder / "users.xml",
        "user_files_path": f"{files}/",
        "user_scripts_path": f"{folder}/no_scripts/",
        "format_schema_path": f"{folder}/no_schemas/",
        "default_database": OVERLAY,
    }
    lines = [f"<{name}>{escape(str(value))}</{name}>" for name, value in values.items()]
    backups = Folders.of(engine.parent)
    allowed = (f"{escape(str(each))}/" for each in (backups.written, backups.kept))
    each = "".join(f"<allowed_path>{path}</allowed_path>" for path in allowed)
    path = folder / "engine.xml"
    path.write_text(_document([*lines, f"<backups>{each}</backups>"]))
    return path


def _users(granted: Iterable[str]) -> str:
    owner = [
        "GRANT ALL ON *.*",
        "REVOKE SOURCES ON *.*",
        "REVOKE SYSTEM SHUTDOWN ON *.*",
        f"REVOKE ALL ON {OVERLAY}.*",
        *(f"GRANT READ, WRITE ON {source}" for source in granted),
        "GRANT SHOW ROW POLICIES ON *.*",  # SHOW POLICIES asks for it everywhere
    ]
    reader = [
        "GRANT SHOW DATABASES, SHOW TABLES, SHOW COLUMNS, SHOW DICTIONARIES, SELECT ON *.*",
        f"REVOKE ALL ON {OVERLAY}.*",
    ]
    constraints = "".join(f"<{name}><const/></{name}>" for name in _FILE_SETTINGS)
    return _document(
        [
            f"<profiles><default><constraints>{constraints}</constraints></default></profiles>",
            "<quotas><default/></quotas>",
            f"<roles>{_role(OWNER_ROLE, owner)}{_role(READER_ROLE, reader)}</roles>",
            "<users><default><password/><networks><ip>::/0</ip></networks>",
            "<profile>default</profile><quota>default</quota>",
            f"{_grants(f'GRANT {role}' for role in (OWNER_ROLE, READER_ROLE))}</default></users>",
        ]
    )


def _role(name: str, queries: Iterable[str]) -> str:
    return f"<{name}>{_grants(queries)}</{name}>"


def _grants(queries: Iterable[str]) -> str:
    return f"<grants>{''.join(f'<query>{query}</query>' for query in queries)}</grants>"


def _document(lines: Iterable[str]) -> str:
    return "\n".join(["<clickhouse>", *lines, "</clickhouse>", ""])


def separate_default(engine: Path) -> None:
    """Make `default` a database of its own, before the engine is opened.

    The engine takes what the link `metadata/default` names for its overlay, so the link has to be gone; the definition
    of the database tells where its tables are. A folder of a version before 0.5 has the link alone.
    """
    metadata = engine / "metadata"
    metadata.mkdir(parents=True, exist_ok=True)
    link, definition = metadata / "default", metadata / "default.sql"
    name = str(uuid.uuid4())
    if link.is_symlink():
        name = link.readlink().name
    if not definition.exists():
        draft = definition.with_suffix(".tmp")
        draft.write_text(f"ATTACH DATABASE _ UUID '{name}'\nENGINE = Atomic\n")
        draft.rename(definition)
    link.unlink(missing_ok=True)
