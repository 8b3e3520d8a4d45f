"""Secrets: kept apart where an address is read, in no text that is written."""

from __future__ import annotations

import copy
import json
import pickle
import random
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml

from dist_condense import credentials
from dist_condense.config import from_dict, to_yaml
from dist_condense.credentials import KNOWN_AT_MOST, MASK, Address, address, is_lost, masked, revealed

SECRET = "planted-S3cret"
FORMS = {
    "user and password": f"http://user:{SECRET}@host:5000/x",
    "token as user": f"https://{SECRET}@host/x",
    "password alone": f"https://:{SECRET}@host/x",
    "token with an empty password": f"https://{SECRET}:@host/x",
    "token with a mark as password": f"https://{SECRET}:x@host/x",
    "database": f"postgresql://mlflow:{SECRET}@db:5432/mlflow",
    "database with a driver": f"mysql+pymysql://mlflow:{SECRET}@db/mlflow",
    "a slash in it": f"postgresql://mlflow:a/{SECRET}/b@db/mlflow",
    "an at in it": f"postgresql://mlflow:a@{SECRET}@db/mlflow",
    "a colon in it": f"https://user:a:{SECRET}@host/x",
    "a hash in it": f"https://user:a#{SECRET}@host/x",
    "a question mark in it": f"https://user:a?{SECRET}@host/x",
    "all of these": f"postgresql://mlflow:p@s/w:r#d?x{SECRET}@db/mlflow",
    "a space in it": f"postgresql://mlflow:a {SECRET}@db/mlflow",
    "percent-encoded": f"https://user:a%2F{SECRET}%40b@host/x",
    "password of a query": f"postgresql://db/mlflow?password={SECRET}",
    "after harmless ones": f"postgresql://db/mlflow?sslmode=require&sslpassword={SECRET}",
    "within a harmless one": f"mssql+pyodbc://db/mlflow?driver=ODBC;PWD={SECRET}",
    "within an encoded one": f"mssql+pyodbc://db/mlflow?driver=ODBC%3BPWD%3D{SECRET}",
    "connection string": f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3D{SECRET}",
    "signed by AWS": f"https://b.s3.example.org/a.tar?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}",
    "signed by Google": f"https://storage.example.org/a.tar?X-Goog-Signature={SECRET}",
    "shared access signature": f"https://acct.blob.example.org/c/a.tar?sv=2024&sig={SECRET}",
    "a bare word": f"https://host/a.tar?{SECRET}",
    "fragment": f"https://host/a.tar#token={SECRET}",
    "keys of a bucket": f"s3://AKIA:{SECRET}@bucket/data@64",
    "file with a password": f"sqlite:////data/x.db?password={SECRET}",
    "no scheme": f"user:{SECRET}@host:5000",
    "one slash": f"http:/user:{SECRET}@host:5000",
    "cut off": f"postgresql://mlflow:{SECRET}",
}
HARMLESS = [
    *(
        "s3://bucket/imagenet@64",
        "gs://bucket/a b",
        "https://host/data@v2/x",
        "http://host:5000",
        "http://[::1]:5000/x",
    ),
    *("a@b.org", "C:\\data\\a@b", "/data/a:b@c", "./a:b@c", "~/a:b@c", "imagenet", "databricks://profile"),
    *("postgresql+psycopg://mlflow@/mlflow?host=/srv&port=5432", "http://host:5000/#/experiments/1/runs/a0"),
    *("sqlite:////tmp/x.db?timeout=30", "sqlite:///file:/tmp/x.db?mode=rwc&uri=true", "sqlite:////a/b?c/mlflow.db"),
    *("http://HOST:PORT", "https://host/a.tar?versionId=3"),
]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has read no address yet: what is masked is masked by its form."""
    monkeypatch.setattr(credentials, "_known", {})
    monkeypatch.setattr(credentials, "_forms", ())


@dataclass
class Holder:
    uri: str


TEXTS = {
    "format": lambda held: f"{held.uri} {held.uri!r} {held.uri:s}" + "%s" % held.uri,  # noqa: UP031
    "repr": repr,
    "json": lambda held: json.dumps(asdict(held)),
    "yaml": lambda held: yaml.safe_dump({"uri": str(held.uri)}),
    "join": lambda held: "/".join([held.uri, "x"]) + held.uri + held.uri[:200] + held.uri.rstrip("/"),
    "bytes": lambda held: held.uri.encode().decode(),
    "config": lambda held: to_yaml(from_dict({"tracking.uri": held.uri, "dataset.root": held.uri})),
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("form", FORMS)
def test_an_address_shows_its_secret_nowhere(form: str, text: str) -> None:
    made = address(FORMS[form])
    assert isinstance(made, Address) and revealed(made) == FORMS[form]
    assert SECRET not in TEXTS[text](Holder(made)) and MASK in TEXTS[text](Holder(made))


@pytest.mark.parametrize("form", FORMS)
def test_it_stays_one_through_copies_and_processes(form: str) -> None:
    made = address(FORMS[form])
    for again in (copy.copy(made), pickle.loads(pickle.dumps(made)), replace(Holder(made)).uri, address(made)):
        assert isinstance(again, Address) and revealed(again) == FORMS[form] and again == made
    kept = copy.deepcopy(Holder(made))
    assert revealed(asdict(kept)["uri"]) == FORMS[form]
    assert is_lost(str(made)) and not is_lost(made)
    assert address(str(made)) == str(made) and not isinstance(address(str(made)), Address)


IN_TEXTS = [
    "{}",
    "MissingSchema: '{}': no",
    "(psycopg.Error) ({!r})",
    "from {} to http://other:80/x",
    '["http://a","{}"]',
    "a ftp://x,{}: gone",
    "see <{}>, or `{}`.",
]


@pytest.mark.parametrize("text", IN_TEXTS)
@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("no scheme", "one slash")])
def test_other_peoples_texts_are_masked_by_their_form(form: str, text: str) -> None:
    given = text.format(FORMS[form], FORMS[form])
    assert SECRET not in masked(given) and masked(masked(given)) == masked(given)
    assert SECRET not in masked(given[:200])


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_that_was_read_is_masked_wherever_it_stands(form: str) -> None:
    address(FORMS[form])
    whole = min((secret for secret in credentials._known if SECRET in secret), key=len)
    for text in (whole, quote(whole, ""), f"FATAL: password {whole} of user failed", json.dumps([whole])):
        assert SECRET not in masked(f"x{text}y")


def test_it_is_masked_as_other_libraries_write_it() -> None:
    password = "pä/s'w@r d&\"x"
    made = address(f"https://user:{quote(password, '')}@host/x")
    again = pickle.dumps(made)
    credentials._known.clear()
    pickle.loads(again)  # a worker's process
    for text in (password, quote(password), quote(password, ""), repr(password)[1:-1], json.dumps(password)[1:-1]):
        assert masked(f"a {text} b") == f"a {MASK} b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("url: /api/2.0?password=abc&max=3 (Caused by", "url: /api/2.0?password=*** (Caused by"),
        ("Authorization: Bearer abc.def-0", "Authorization: Bearer ***"),
        ("{'Authorization': 'Basic YWJj', 'a': 1}", "{'Authorization': 'Basic ***', 'a': 1}"),
        ("AWS_SECRET_ACCESS_KEY=abc/d next", "AWS_SECRET_ACCESS_KEY=*** next"),
        ("to https%3A%2F%2Fu%3Apw%40host%2Fx", "to https%3A%2F%2F***%40host%2Fx"),
        ("http://u:p@a and http://v:q@b, https://c", "http://***@a and http://***@b, https://c"),
        ("postgresql://mlflow:pw@db failed", "postgresql://mlflow:***@db failed"),
        ("http://u:pa ss@host then", "http://***@host then"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert masked(text) == shown


@pytest.mark.parametrize("text", HARMLESS)
def test_what_holds_no_secret_stays(text: str) -> None:
    assert address(text) == masked(text) == text and not is_lost(text)
    assert masked(f"give {text}, or '{text}'.") == f"give {text}, or '{text}'."


def test_no_password_of_any_letters_is_shown() -> None:
    drawn = random.Random(0)
    shapes = ("http://u:{}@host:5000/x", "postgresql://mlflow:{}@db/x", "https://{}@host", "mysql://db/x?password={}")
    for _ in range(3000):
        password = "Z" + "".join(drawn.choices("/@:?#%&= Zz\"'()[]<>\\,;.~+é9", k=drawn.randint(5, 24))) + "Z"
        encoded, shape = quote(password, ""), drawn.choice(shapes)
        given = shape.format(password if shape in shapes[:2] else encoded)
        credentials._known.clear()
        shown = "" if " " in password else masked(f"x {given} y")
        made = address(given)
        for text in (shown, str(made), repr(Holder(made)), masked(given), masked(f"of {password!r}")):
            assert password not in text and encoded not in text, (given, text)


@pytest.mark.parametrize(
    "piece",
    [
        *("://", "a", ",a", "?a=", "http://u:p@h,", "%3A%2F%2F", "http://u:p ", "password=", "authorization:"),
        *("@", ":", "/", "?;", "'\"", " ", "\"password'   ", "bearer ", "#", "http://", "-----a+", "=;"),
    ],
)
def test_a_megabyte_of_hostile_text_takes_no_longer_than_its_length(piece: str) -> None:
    address(FORMS["all of these"])
    text = f"http://a{piece * (2**20 // len(piece))}"
    began = time.process_time()
    masked(text)
    address(text)
    assert time.process_time() - began < 20  # a quadratic one takes hours


def test_many_signed_addresses_do_not_make_every_text_slow() -> None:
    for index in range(KNOWN_AT_MOST * 2):
        address(f"https://host/{index}?X-Amz-Signature={index:064x}")
    assert len(credentials._known) == KNOWN_AT_MOST
    assert masked(f"https://host/1?X-Amz-Signature={999:064x}") == f"https://host/1?X-Amz-Signature={MASK}"
