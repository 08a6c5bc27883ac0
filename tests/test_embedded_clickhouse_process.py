"""The embedded ClickHouse as a process: who starts it, who shares it, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError
from worlds import PATIENCE_S

from embedded_clickhouse import Access, EmbeddedError, running, serve

# What a verb of the pipeline does, as a program: use the server of a folder until killed.
USER = """
import sys, time
from pathlib import Path
from embedded_clickhouse import running
with running(Path(sys.argv[1]), 0) as endpoint:
    print(endpoint.pid, flush=True)
    time.sleep(60)
"""


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_statement(endpoint, beginning):
    client = connect(endpoint)
    running = f"select count() from system.processes where startsWith(query, '{beginning}')"
    while client.command(running) == 0:
        time.sleep(0.01)


def wait_for_end(pid, seconds=PATIENCE_S):
    deadline = time.monotonic() + seconds
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.01)


def connect(endpoint, **options):
    return clickhouse_connect.get_client(
        host=endpoint.host, port=endpoint.port, password=endpoint.password, **options
    )


def start_users(path, count):
    """Processes that use the server of the folder, and the pids of the servers they got."""
    command = [sys.executable, "-c", USER, str(path)]
    users = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return users, [int(user.stdout.readline()) for user in users]


def serve_in_foreground(path, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "embedded_clickhouse", "--path", str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_a_server_in_the_foreground_says_when_it_is_ready(tmp_path):
    program = (
        "import sys; from pathlib import Path; from embedded_clickhouse import serve; "
        "serve(Path(sys.argv[1]), 0, on_ready=lambda *address: print(*address, flush=True))"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    host, port = server.stdout.readline().split()
    with running(tmp_path, 0) as endpoint:  # a verb uses what is up, and leaves it up
        assert (endpoint.host, endpoint.port, endpoint.pid) == (host, int(port), server.pid)
    time.sleep(0.4)
    assert connect(endpoint).command("select 1") == 1
    server.terminate()

    assert server.wait(timeout=PATIENCE_S) == -signal.SIGTERM
    assert not (tmp_path / "server.log").exists()


def test_who_only_uses_a_server_does_not_load_the_engine():
    subprocess.run(
        [sys.executable, "-c", "import embedded_clickhouse, sys; assert 'chdb' not in sys.modules"],
        check=True,
    )


def test_users_share_one_server_that_ends_with_the_last_of_them(tmp_path):
    with running(tmp_path, 0) as first:
        with running(tmp_path, 0) as second:
            assert first == second
        time.sleep(0.5)
        assert connect(first).command("select 1") == 1
    wait_for_end(first.pid)


def test_data_outlives_the_server(tmp_path):
    with running(tmp_path, 0) as before:
        client = connect(before)
        client.command("create table t (a Int64) engine = MergeTree order by a")
        client.insert("t", [[1]], column_names=["a"])

    wait_for_end(before.pid)
    with running(tmp_path, 0) as after:
        assert connect(after).command("select a from t") == 1


def test_a_server_on_its_way_out_makes_room_for_the_next(tmp_path):
    servers = set()
    for pause in (0, 0.04, 0.08, 0.12, 0.16, 0.2):
        with running(tmp_path, 0) as endpoint:
            servers.add(endpoint.pid)
            assert connect(endpoint).command("select 1") == 1
        time.sleep(pause)

    assert len(servers) > 1


def test_a_killed_user_leaves_no_server_behind(tmp_path):
    [user], [server] = start_users(tmp_path, 1)
    user.kill()
    user.wait()

    wait_for_end(server)


def test_users_that_start_together_share_one_server(tmp_path):
    users, servers = start_users(tmp_path, 3)
    for user in users:
        user.kill()
        user.wait()

    assert len(set(servers)) == 1
    wait_for_end(servers[0])


def test_an_interrupted_user_takes_nothing_from_the_others(tmp_path):
    [user], [server] = start_users(tmp_path, 1)
    with running(tmp_path, 0) as endpoint:
        assert endpoint.pid == server
        user.send_signal(signal.SIGINT)
        user.wait()
        time.sleep(0.5)
        assert connect(endpoint).command("select 1") == 1


def test_a_second_process_on_the_folder_is_told_of_the_first(tmp_path):
    with running(tmp_path, 0) as endpoint:
        second = serve_in_foreground(tmp_path, "--port", "0")

    assert second.returncode == 1
    assert second.stderr == (
        f"The ClickHouse data in {tmp_path} is in use by process {endpoint.pid}, which serves it "
        f"at 127.0.0.1:{endpoint.port}: connect there, or stop that process first.\n"
    )


def test_a_taken_port_is_named_with_the_setting_to_change(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(EmbeddedError) as caught, running(tmp_path, port):
            pass

    assert str(caught.value) == (
        f"Port {port} is taken by another program: set CLICKHOUSE_LOCAL_PORT to a free one."
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.2", "127.example.com"])
def test_others_are_let_in_only_with_a_password(tmp_path, host):
    with pytest.raises(EmbeddedError, match="unset CLICKHOUSE_LOCAL_NO_PASSWORD, or listen on"):
        serve(tmp_path, 0, host=host, access=Access(password=""))


def test_a_folder_that_is_no_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(EmbeddedError, match="set CLICKHOUSE_LOCAL_PATH"):
        serve(tmp_path / "file", 0)
    with pytest.raises(EmbeddedError, match="question mark"), running(tmp_path / "?", 0):
        pass
    with pytest.raises(EmbeddedError, match="File exists"), running(tmp_path / "file", 0):
        pass


def test_data_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "engine").write_text("not a folder")

    with (
        pytest.raises(EmbeddedError, match="Cannot open the ClickHouse data"),
        running(tmp_path, 0),
    ):
        pass


def test_on_a_full_disk_nothing_is_written_and_what_is_there_can_be_read_and_dropped(tmp_path):
    with running(tmp_path, 0) as server:
        client = connect(server)
        for name in ("kept", "dropped"):
            client.command(f"create table {name} (a Int64) engine = MergeTree order by a")
            client.insert(name, [[1]], column_names=["a"])
        os.kill(server.pid, signal.SIGKILL)  # or the next user would find it still there
    with running(tmp_path, 0, min_free=1 << 60) as server:
        client = connect(server)
        for write in (
            "insert into kept values (2)",
            "create table more (a Int8) engine = Log",
            "insert into kept select 2",
        ):
            with pytest.raises(DatabaseError, match=r"MiB are free.*not enough space") as failure:
                client.command(write)
            assert failure.value.code == 243
        with pytest.raises(DatabaseError, match="not enough space"):
            client.insert("kept", [[2]], column_names=["a"])
        client.command("drop table dropped")
        assert client.command("select count() from kept") == 1
        os.kill(server.pid, signal.SIGKILL)
    with running(tmp_path, 0) as server:
        assert connect(server).command("exists table more") == 0


def test_memory_is_capped(tmp_path):
    with running(tmp_path, 0, max_memory=400_000_000) as endpoint:
        client = connect(endpoint)
        with pytest.raises(DatabaseError) as caught:
            client.query("select length(groupArray(toString(number))) from numbers(100000000)")

        assert caught.value.code == 241
        assert client.command("select 1") == 1


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_a_stop_in_the_middle_of_an_insert_leaves_whole_blocks(tmp_path, sig):
    def rows():
        for start in range(0, 100_000_000, 10_000):
            yield b"".join(b"%d\n" % number for number in range(start, start + 10_000))

    with running(tmp_path, 0) as endpoint:
        client = connect(endpoint)
        client.command("create table t (a Int64) engine = MergeTree order by a")
        failures = []

        def insert():
            try:
                client.raw_insert(
                    "t",
                    insert_block=rows(),
                    fmt="CSV",
                    settings={"min_insert_block_size_rows": 50_000, "max_insert_threads": 1},
                )
            except (DatabaseError, OperationalError) as error:
                failures.append(error)

        inserting = threading.Thread(target=insert)
        inserting.start()
        reader = connect(endpoint)
        while reader.command("select count() from t") == 0:
            time.sleep(0.02)
        os.kill(endpoint.pid, sig)
        wait_for_end(endpoint.pid, 60)
        inserting.join(timeout=PATIENCE_S)
        assert failures

    with running(tmp_path, 0) as endpoint:
        client = connect(endpoint)
        assert client.command("check table t settings check_query_single_value_result = 1") == 1
        count, last = client.query("select count(), max(a) from t").first_row
        assert count == last + 1 > 0
        client.command("insert into t values (-1)")


def test_a_stop_tells_clients_that_their_queries_were_cancelled(tmp_path):
    with running(tmp_path, 0) as endpoint:
        client, caught = connect(endpoint), []

        def work():
            try:
                client.query("select sum(cityHash64(number)) from numbers(100000000000)")
            except DatabaseError as error:
                caught.append(error.code)

        thread = threading.Thread(target=work)
        thread.start()
        wait_for_statement(endpoint, "select sum(cityHash64")
        os.kill(endpoint.pid, signal.SIGTERM)
        wait_for_end(endpoint.pid, 60)
        thread.join()

    assert caught == [394]


def test_a_stop_lets_a_short_statement_finish(tmp_path):
    with running(tmp_path, 0) as endpoint:
        client, answers = connect(endpoint), []
        thread = threading.Thread(
            target=lambda: answers.append(client.command("select sleep(1) + 7"))
        )
        thread.start()
        wait_for_statement(endpoint, "select sleep")
        os.kill(endpoint.pid, signal.SIGTERM)
        thread.join()
        wait_for_end(endpoint.pid, 60)

    assert answers == [7]
