"""The command line, in this process; the server itself is for the end-to-end tests."""

import io
import json
import os
import stat
import time

import jwt
import pytest
import trio

from scm_trio import cli, serve
from scm_trio.config import Auth, Server
from scm_trio.development import secret_path
from scm_trio.house import Parts, open_house
from scm_trio.model import File, Message
from scm_trio.providers.scripted import Scripted
from scm_trio.store import files
from scm_trio.store.database import inline, open_database
from scm_trio.store.messages import add_message, ensure_session
from scm_trio.testing import SECRET, quiet_config, virtual_clock

CONFIGURED = f"""
scm:
  auth: {{secret: "{SECRET}", issuer: me}}
  store: {{url: "sqlite:///chat.db"}}
"""


@pytest.fixture
def scm(tmp_path, monkeypatch, capsys):
    """Runs ``scm-trio`` in an empty folder and environment; returns exit code, output and error output."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("SCM_", "OPENAI_", "ANTHROPIC_"))]:
        monkeypatch.delenv(name)

    def run(*words):
        code = 0
        try:
            cli.main(words)
        except SystemExit as exc:
            code = exc.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_token_is_issued_with_the_configured_secret(scm, tmp_path):
    (tmp_path / "scm-trio.yml").write_text(CONFIGURED)
    code, out, _ = scm("token", "--user", "user007", "--ttl", "60", "--role", "admin", "editor")
    claims = jwt.decode(out.strip(), SECRET, algorithms=["HS256"], issuer="me")
    assert code == 0
    assert (claims["sub"], sorted(claims["roles"])) == ("user007", ["admin", "editor"])
    assert 50 < claims["exp"] - time.time() <= 61


def test_without_a_secret_the_development_one_signs(scm, tmp_path):
    code, out, _ = scm("token", "--user", "dev")
    assert code == 0
    secret = (tmp_path / "scm-trio.secret").read_text().strip()
    assert jwt.decode(out.strip(), secret, algorithms=["HS256"])["sub"] == "dev"


@pytest.mark.parametrize("ttl", ["0", "-5"])
def test_a_token_needs_a_length_of_life(scm, ttl):
    code, out, err = scm("token", "--user", "dev", f"--ttl={ttl}")
    assert (code, out) == (1, "")
    assert err.startswith("scm-trio: --ttl:")


def test_a_wrong_configuration_is_one_clear_line_and_exit_code_1(scm, tmp_path):
    (tmp_path / "wrong.yml").write_text("scm:\n  server: {port: eighty}\n")
    for command in (["serve"], ["config"], ["migrate"], ["token", "--user", "a"]):
        code, out, err = scm(*command, "--config", "wrong.yml")
        assert (code, out) == (1, "")
        assert err.startswith("scm-trio: ")
        assert "scm.server.port" in err
        assert "Traceback" not in err


def test_a_missing_configuration_file_is_told(scm):
    code, _, err = scm("config", "--config", "nowhere.yml")
    assert code == 1
    assert "nowhere.yml" in err


def test_the_effective_configuration_hides_secrets(scm, tmp_path):
    (tmp_path / "scm-trio.yml").write_text(CONFIGURED)
    code, out, _ = scm("config")
    assert code == 0
    assert "issuer: me" in out
    assert SECRET not in out


def test_the_database_is_made_and_brought_up_to_date(scm, tmp_path):
    (tmp_path / "scm-trio.yml").write_text(CONFIGURED)
    for _ in range(2):
        code, out, _ = scm("migrate")
        assert (code, out.strip()) == (0, "The database is up to date.")
    assert (tmp_path / "chat.db").exists()


def test_a_database_that_cannot_be_opened_is_one_clear_line(scm, tmp_path):
    (tmp_path / "chat.db").mkdir()
    (tmp_path / "scm-trio.yml").write_text(CONFIGURED)
    code, _, err = scm("migrate")
    assert code == 1
    assert err.startswith("scm-trio: ")
    assert "Traceback" not in err


def test_serving_hands_the_configuration_and_the_address_on(scm, tmp_path, monkeypatch):
    (tmp_path / "scm-trio.yml").write_text(CONFIGURED + "  log: {format: json, level: error}\n")
    served = []
    monkeypatch.setattr(cli.logs, "configure", served.append)
    monkeypatch.setattr(serve, "run", lambda config, **more: served.append((config, more)))
    assert scm("serve", "--host", "::1", "--port", "0")[0] == 0
    log, (config, more) = served
    assert (log.format, log.level) == ("json", "error")
    assert config.auth.secret == SECRET
    assert (more["host"], more["port"]) == ("::1", 0)


@pytest.mark.parametrize("words", [["dance"], ["serve", "--port", "many"], ["token"]])
def test_a_wrong_command_line_is_refused(scm, words):
    code, _, _ = scm(*words)
    assert code == 2


def test_the_version_is_told(scm):
    code, out, _ = scm("--version")
    assert (code, out.strip()) == (0, cli.__version__)


# ---- a person's data


@pytest.fixture
def chatted(scm, tmp_path):
    """A database in which two people have asked something."""
    (tmp_path / "scm-trio.yml").write_text(CONFIGURED)

    def ask(conn, user):
        if user == "user007":
            files.announce(conn, File("f-a", user, "a.png", "image/png", 3, 1.0))
        session = ensure_session(conn, user, "session001", f"s-{user}", 1.0)
        add_message(conn, Message(f"q-{user}", session.global_id, "c", None, "user", user, "为什么？", created_at=1.0))

    async def fill():
        async with open_database(f"sqlite:///{tmp_path / 'chat.db'}") as database, trio.open_nursery() as nursery:
            await nursery.start(database.run_writer)
            for user in ("user007", "user008"):
                await database.write(ask, user)
            nursery.cancel_scope.cancel()

    trio.run(fill)
    (tmp_path / "scm-trio-files" / "-a").mkdir(parents=True)
    (tmp_path / "scm-trio-files" / "-a" / "f-a").write_bytes(b"png")
    return scm


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_persons_data_is_written_as_json_lines(chatted):
    code, out, err = chatted("export-user", "user007")
    assert (code, err.strip()) == (0, "3 records about user007.")
    session, message, file = records(out)
    assert (session["kind"], session["sessionId"], session["role"]) == ("session", "session001", "owner")
    assert (message["kind"], message["content"], message["userId"]) == ("message", "为什么？", "user007")
    assert (file["kind"], file["name"]) == ("file", "a.png")


def test_a_persons_data_goes_into_a_new_file_that_others_cannot_read(chatted, tmp_path):
    code, out, _ = chatted("export-user", "user007", "--out", "data.jsonl")
    assert (code, out) == (0, "")
    path = tmp_path / "data.jsonl"
    assert len(records(path.read_text())) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    code, _, err = chatted("export-user", "user007", "--out", "data.jsonl")
    assert code == 1
    assert err.startswith("scm-trio: --out: data.jsonl: ")


def test_a_persons_data_is_deleted_and_nobody_elses(chatted, tmp_path):
    assert list(tmp_path.glob("scm-trio-files/*/*"))
    code, out, _ = chatted("delete-user", "user007", "--yes")
    assert (code, out.strip()) == (0, "Deleted everything about user007.")
    assert chatted("export-user", "user007")[1] == ""
    assert list(tmp_path.glob("scm-trio-files/*/*")) == []
    assert len(records(chatted("export-user", "user008")[1])) == 2
    assert chatted("delete-user", "user007", "--yes")[1].strip() == "Nothing was kept about user007."


@pytest.mark.parametrize(("said", "code"), [("y", 0), ("YES ", 0), ("", 1), ("n", 1), ("whatever", 1)])
def test_one_is_asked_before_a_persons_data_is_deleted(chatted, monkeypatch, said, code):
    questions = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or said)
    assert chatted("delete-user", "user007")[0] == code
    assert "user007" in questions[0]
    assert bool(chatted("export-user", "user007")[1]) is bool(code)


def test_where_nobody_can_be_asked_nothing_is_deleted_without_yes(chatted, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y"))
    code, _, err = chatted("delete-user", "user007")
    assert code == 1
    assert err.startswith("scm-trio: --yes")
    assert len(records(chatted("export-user", "user007")[1])) == 3


# ---- the announcement


async def announced(capsys, config, *, development, providers=None, tls=None):
    providers = {"openai": Scripted(["a"])} if providers is None else providers
    parts = Parts(clock=virtual_clock(), offload=inline, providers=providers)
    async with open_house(config, parts) as house:
        house.listener.tls = tls
        cli._announce(development, house, 8088)
    return capsys.readouterr().out


async def test_a_server_says_where_it_is_and_shows_no_token(autojump_clock, capsys):
    text = await announced(capsys, quiet_config(), development=False)
    assert f"scm_trio {cli.__version__}" in text
    assert "providers  openai" in text
    assert "page       http://127.0.0.1:8088/\n" in text
    assert "token" not in text


async def test_a_development_server_shows_how_to_come_in(autojump_clock, capsys):
    text = await announced(capsys, quiet_config(server=Server(host="::1")), development=True)
    token = next(line.split()[1] for line in text.splitlines() if line.strip().startswith("token"))
    assert jwt.decode(token, SECRET, algorithms=["HS256"], options={"verify_exp": False})["sub"] == "dev"
    assert f"page       http://[::1]:8088/#token={token}" in text
    assert f"scripts/chat.py ws://[::1]:8088 --token {token}" in text
    assert "DEVELOPMENT MODE" in text
    assert "开发模式" in text


async def test_the_announcement_knows_tls_and_a_missing_provider(autojump_clock, capsys):
    text = await announced(capsys, quiet_config(), development=False, providers={}, tls=object())
    assert "https://127.0.0.1:8088/" in text
    assert "none: set OPENAI_API_KEY" in text


def test_the_secret_of_the_default_configuration_has_a_place():
    assert secret_path(quiet_config(auth=Auth())).name == "scm-trio.secret"
