"""A run on an object store over HTTP (s3fs against moto's server on loopback): read shards, write checkpoints and the
pool, resume; a wrong key, a missing bucket, and a server that is killed and restarted.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
import torch
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from dist_condense import run
from dist_condense.core import randomness
from dist_condense.result.synthetic_set import load_set
from dist_condense.system import remote, storage
from dist_condense.system.storage import Bucket
from tests.data.shards.shard_cases import CLASSES, photograph, prepared, tree

HOST = "127.0.0.1"
BUCKET = "bucket"
CHECKPOINTS = Bucket(f"s3://{BUCKET}/run/checkpoints")
POOL = Bucket(f"s3://{BUCKET}/run/pool")


class Server:
    """A store that can be stopped and keeps its objects."""

    def __init__(self) -> None:
        self.port = 0
        self.running: ThreadedMotoServer | None = None

    def start(self) -> None:
        if self.running is None:
            self.running = ThreadedMotoServer(ip_address=HOST, port=self.port, verbose=False)
            self.running.start()
            self.port = self.running.get_host_and_port()[1]

    def stop(self) -> None:
        if self.running is not None:
            self.running.stop()
        self.running = None


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def store(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """An empty bucket on the server, with the address in the environment variables of a user."""
    server.start()
    environment = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{HOST}:{server.port}",
        "AWS_MAX_ATTEMPTS": "1",  # of botocore itself, which are 6 s for each of ours
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])
    monkeypatch.setattr(server, "client", client, raising=False)
    S3FileSystem.clear_instance_cache()  # fsspec keeps one client per process, with its first keys
    return server


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with class shards of three classes."""
    source, work = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("work")
    for position, name in enumerate(CLASSES):
        for split, count in (("train", 6), ("val", 2)):
            (source / split / name).mkdir(parents=True)
            for i in range(count):
                photograph(100 * position + i).save(source / split / name / f"{split}{i}.png")
    prepared(source, work / "shards", size=16)
    return work


@pytest.fixture(scope="module")
def local(work: Path) -> torch.Tensor:
    """The set of a run on local files."""
    assert run.main(command(str(work / "shards"), work / "local")) == 0
    return pixels(work / "local")


def command(root: str, output: Path, *more: str) -> list[str]:
    """A run of IDC with a pool of networks and four matching steps."""
    return [
        "configs/cifar10_idc.yaml",
        "dataset.name=image_folder",
        f"dataset.root={root}",
        "dataset.size=16",
        f"output={output}",
        "network.width=4",
        "network.depth=2",
        "ipc=1",
        "method.real_batch=4",
        "trajectory.networks=2",
        "trajectory.matching_steps=2",
        "trajectory.start=pool",
        "trajectory.pool_size=2",
        "trajectory.pretrain_epochs=1",
        "training.images=8",
        "training.batch=4",
        "compute.threads=1",
        "cluster.workers=0",
        "evaluation.sets=[random,condensed]",
        "evaluation.seeds=1",
        "evaluation.epochs=1",
        "tracking.checkpoint_steps=1",
        "tracking.checkpoints_kept=9",
        *more,
    ]


def upload(store: Server, folder: Path, prefix: str) -> None:
    for name, content in tree(folder).items():
        store.client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=content)


def pixels(output: Path) -> torch.Tensor:
    return load_set(output / "synthetic_set").pixels()


def test_a_run_on_a_store_ends_with_the_set_of_local_files_and_resumes(
    store: Server, local: torch.Tensor, work: Path
) -> None:
    upload(store, work / "shards", "set")
    on_store = [f"data.cache={work / 'cache'}", f"tracking.checkpoints=s3://{BUCKET}/run"]
    assert run.main(command(f"s3://{BUCKET}/set", work / "remote", *on_store)) == 0
    assert torch.equal(pixels(work / "remote"), local)
    assert not list((work / "remote").glob("checkpoints*"))
    drawn = {randomness.key(0, "pool", k) % 2 for k in range(2)}
    assert {f"network_{member}.safetensors" for member in drawn} <= set(POOL.names())

    names = CHECKPOINTS.names()
    assert len(names) == 4
    for name in names[2:]:  # what a run that was killed after its second step had left
        CHECKPOINTS.remove(name)
    CHECKPOINTS.write("step_00000009_00000000/manifest.json", b"")  # a store refuses a range of an empty object
    assert CHECKPOINTS.read("step_00000009_00000000/manifest.json", 9) == b""
    weights = POOL.read(POOL.names()[0], 10**6)
    assert run.main(command(f"s3://{BUCKET}/set", work / "again", *on_store)) == 0
    assert torch.equal(pixels(work / "again"), local)
    assert len(CHECKPOINTS.names()) == 5 and POOL.read(POOL.names()[0], 10**6) == weights


@pytest.fixture
def dies(store: Server, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stop the server before the first checkpoint is committed; `back` is called in place of waiting."""
    state = SimpleNamespace(waited=[], back=store.start)
    write, stop = Bucket.write, [store.stop]

    def dying(bucket: Bucket, name: str, data: bytes) -> None:
        if name.endswith("manifest.json") and stop:
            stop.pop()()
        write(bucket, name, data)

    def sleep(seconds: float) -> None:
        state.waited.append(seconds)
        state.back()

    monkeypatch.setattr(Bucket, "write", dying)
    monkeypatch.setattr(storage, "persistent", partial(remote.persistent, sleep=sleep))
    return state


def test_a_server_that_dies_is_waited_for(dies: SimpleNamespace, local: torch.Tensor, work: Path) -> None:
    assert run.main(command(str(work / "shards"), work / "waited", f"tracking.checkpoints=s3://{BUCKET}/run")) == 0
    assert set(dies.waited) == {1.0}
    assert torch.equal(pixels(work / "waited"), local)


def test_a_server_that_stays_away_ends_the_run_which_continues_once_it_is_back(
    store: Server,
    dies: SimpleNamespace,
    local: torch.Tensor,
    work: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dies.back = lambda: None
    given = command(str(work / "shards"), work / "outage", f"tracking.checkpoints=s3://{BUCKET}/run")
    assert run.main(given) == 1
    assert {1.0, 2.0, 4.0, 8.0} == set(dies.waited)
    log = capsys.readouterr().err
    assert "Traceback" not in log and "s3://bucket/run/" in log and "EndpointConnectionError" in log
    assert "continues from the newest checkpoint once the store answers" in log
    assert run.main(given) == 1  # it is not taken for a damaged or an empty store
    assert "failed: s3://bucket/run/checkpoints: EndpointConnectionError" in capsys.readouterr().err
    store.start()
    assert run.main(given) == 0
    assert torch.equal(pixels(work / "outage"), local)


def test_what_the_store_refuses_is_refused_at_the_start(
    store: Server, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(command("s3://missing/set", work / "refused")) == 2
    assert "s3://missing/set/manifest.json: it cannot be read (FileNotFoundError" in capsys.readouterr().err
    assert run.main(command(str(work / "shards"), work / "refused", "tracking.checkpoints=s3://missing/run")) == 2
    log = "refused: tracking.checkpoints: s3://missing/run/checkpoints cannot be written (FileNotFoundError: "
    assert log in capsys.readouterr().err
    upload(store, work / "shards", "set")
    with every_key_refused(store):
        assert run.main(command(f"s3://{BUCKET}/set", work / "refused")) == 2
        assert f"s3://{BUCKET}/set/manifest.json: it cannot be read (PermissionError" in capsys.readouterr().err
        with pytest.raises(PermissionError, match=r"s3://bucket/run/checkpoints/a: PermissionError"):
            CHECKPOINTS.write("a", b"1")
    assert not (work / "refused").exists()


@contextmanager
def every_key_refused(store: Server) -> Iterator[None]:
    """Make the server check keys and accept none."""
    for count in (b"0", b"inf"):
        url, kind = f"http://{HOST}:{store.port}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, count, kind, method="POST")).close()
        if count == b"0":
            yield
