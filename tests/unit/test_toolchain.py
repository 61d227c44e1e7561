"""Installing programs and schemas: small scripts as programs, a real local release server and module proxy, real Go."""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import io
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator

import pytest

from local import processes
from tests import support
from tools import toolchain
from tools.toolchain import __main__ as command
from tools.toolchain import pins
from tools.toolchain.pins import Asset, Schemas, Tool

ROOT = pathlib.Path(__file__).parents[2]
GO = shutil.which("go")

# The real Dolt, but nothing to download: each test adds what it is about.
DOLT = dataclasses.replace(pins.DOLT, assets={})

# A `go` that runs no compiler: it notes that it started, waits for a file, and writes the program.
FAKE_GO = """\
#!/bin/sh
echo $$ >> "{folder}/started"
while [ ! -e "{folder}/leave" ]; do /bin/sleep 0.05; done
while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\\necho dolt version 2.2.0\\n' > "$2"
"""

# What `python -m tools.toolchain dolt` does where no release is pinned, with a line of progress more often.
COMMAND = """\
import dataclasses, sys
from tools.toolchain import __main__ as command, pins, progress
progress.PROGRESS_SECONDS = 0.05
pins.TOOLS["dolt"] = dataclasses.replace(pins.DOLT, assets={})
sys.exit(command.main(["dolt"]))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A machine with nothing on PATH and an empty cache."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("DOLT", "BD", "KUSTOMIZE", "KUBE_SCORE", "PROMTOOL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def releases(folder: pathlib.Path) -> Iterator[str]:
    """A release server on this machine; gives its address. It serves the folder `releases`."""
    served = folder / "releases"
    served.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(served))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def program(path: pathlib.Path, prints: str) -> pathlib.Path:
    """A program that answers everything with one line."""
    return script(path, f"#!/bin/sh\necho '{prints}'\n")


def script(path: pathlib.Path, text: str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def released(folder: pathlib.Path, address: str, prints: str) -> Tool:
    """A Dolt whose release archive is on the release server."""
    text = f"#!/bin/sh\necho '{prints}'\n".encode()
    member = tarfile.TarInfo("dolt-x/bin/dolt")
    member.size = len(text)
    archive = folder / "releases" / "dolt.tar.gz"
    with tarfile.open(archive, "w:gz") as files:
        files.addfile(member, io.BytesIO(text))
    asset = Asset(f"{address}/dolt.tar.gz", hashlib.sha256(archive.read_bytes()).hexdigest(), member.name)
    return dataclasses.replace(DOLT, assets={pins.this_platform(): asset})


def cache(folder: pathlib.Path, name: str) -> pathlib.Path:
    return folder / "cache" / "beads-dispatch" / "tools" / name


def programs(folder: pathlib.Path) -> list[str]:
    """The files in the cache; a lock file stays and is not a program."""
    found = (folder / "cache").rglob("*")
    return sorted(
        str(path.relative_to(cache(folder, ""))) for path in found if path.is_file() and path.suffix != ".lock"
    )


def start(folder: pathlib.Path, name: str) -> subprocess.Popen[bytes]:
    """The command in a process of its own; what it prints goes to the file `name`."""
    with (folder / name).open("wb") as output:
        return subprocess.Popen([sys.executable, "-c", COMMAND], cwd=ROOT, stdout=output, stderr=output)


@contextlib.contextmanager
def ended(*children: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ends the children, whether the test passes or fails."""
    try:
        yield
    finally:
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
            child.wait(120)


class TestPath:
    def test_a_new_enough_program_on_path_is_used(self, folder: pathlib.Path) -> None:
        """PATH comes first, and nothing is installed."""
        expected = program(folder / "bin" / "dolt", "dolt version 1.87.0")
        assert toolchain.find(DOLT) == expected
        assert programs(folder) == []

    def test_the_network_is_not_asked_for_a_newer_dolt(self, folder: pathlib.Path) -> None:
        """Dolt's own check for a newer release is off: it would wait as long as the network lets it."""
        text = "#!/bin/sh\nread -r config < $DOLT_ROOT_PATH/.dolt/config_global.json\necho dolt version 2.0.0\n"
        expected = script(folder / "bin" / "dolt", text + '[ "$config" = \'{"versioncheck.disabled": "true"}\' ]\n')
        assert toolchain.find(DOLT) == expected

    def test_a_dolt_too_old_is_refused_with_the_reason_and_the_next_way_is_taken(
        self, folder: pathlib.Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """An old Dolt would break its writers, so it is not used, and one line says why."""
        program(folder / "bin" / "dolt", "dolt version 1.86.4")
        expected = program(cache(folder, "dolt-2.2.0/dolt"), "dolt version 2.2.0")
        assert toolchain.find(DOLT) == expected
        (line,) = capfd.readouterr().err.splitlines()
        assert "1.86.4" in line
        assert "Dolt before 1.87.0 breaks its writers when the binlog is on" in line

    def test_versions_are_compared_as_numbers(self, folder: pathlib.Path) -> None:
        """1.100.0 is newer than 1.87.0."""
        expected = program(folder / "bin" / "dolt", "dolt version 1.100.0")
        assert toolchain.find(DOLT) == expected

    def test_a_newer_bd_is_accepted_unless_1_0_2_is_asked_for(self, folder: pathlib.Path) -> None:
        """1.3.0 means at least; 1.0.2 means exactly, because of its schema."""
        newer = program(folder / "bin" / "bd", "bd version 1.4.1 (abc: main@def)")
        exact = program(cache(folder, "bd-1.0.2/bd"), "bd version 1.0.2 (dev)")
        assert toolchain.bd() == newer
        assert toolchain.bd("1.0.2") == exact

    def test_a_bd_version_that_is_not_pinned_is_an_error(self) -> None:
        """What is not pinned cannot be installed, so it is not looked for."""
        with pytest.raises(toolchain.ToolError, match=r"bd 1\.2\.0 is not pinned here\. Ask for 1\.3\.0 or 1\.0\.2"):
            toolchain.bd("1.2.0")

    def test_kustomize_prints_its_version_alone(self, folder: pathlib.Path) -> None:
        """It prints no name before it; too old is too old all the same."""
        program(folder / "bin" / "kustomize", "v5.4.3")
        expected = program(cache(folder, "kustomize-5.8.1/kustomize"), "v5.8.1")
        assert toolchain.kustomize() == expected
        newer = program(folder / "bin" / "kustomize", "v5.9.0")
        assert toolchain.kustomize() == newer

    def test_each_program_is_asked_for_its_version_in_its_own_way(self, folder: pathlib.Path) -> None:
        """promtool has an option, kube-score other words around it."""
        option = '#!/bin/sh\n[ "$1" = --version ] && echo "promtool, version 3.13.5 (branch: x)"\n'
        assert script(cache(folder, "promtool-3.13.5/promtool"), option) == toolchain.promtool()
        words = '#!/bin/sh\n[ "$1" = version ] && echo "kube-score version: 1.20.0, commit: x"\n'
        assert script(cache(folder, "kube-score-1.20.0/kube-score"), words) == toolchain.kube_score()

    def test_another_program_of_that_name_is_refused(self, folder: pathlib.Path) -> None:
        """A program that does not print a version is not the right one."""
        program(folder / "bin" / "bd", "usage: bd letters")
        expected = program(cache(folder, "bd-1.3.0/bd"), "bd version 1.3.0 (dev)")
        assert toolchain.bd() == expected


class TestOverride:
    def test_the_override_wins_over_path(self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """DOLT names the program to use."""
        program(folder / "bin" / "dolt", "dolt version 2.0.0")
        expected = program(folder / "mine", "dolt version 1.90.0")
        monkeypatch.setenv("DOLT", str(expected))
        assert toolchain.dolt() == expected

    def test_an_override_with_a_version_that_is_not_accepted_is_an_error(
        self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A program that was named is used or refused, never replaced by another."""
        program(folder / "bin" / "dolt", "dolt version 2.0.0")
        monkeypatch.setenv("DOLT", str(program(folder / "mine", "dolt version 1.86.4")))
        with pytest.raises(toolchain.ToolError, match=r"^DOLT names .*mine is 1\.86\.4, expected 1\.87\.0 or newer"):
            toolchain.dolt()

    def test_an_override_that_does_not_exist_is_an_error(
        self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A mistyped path is an error, not ignored."""
        monkeypatch.setenv("BD", str(folder / "nowhere"))
        with pytest.raises(toolchain.ToolError, match=r"^BD names .*no .*nowhere.*unset it"):
            toolchain.bd()


class TestCache:
    def test_what_is_in_the_cache_is_used_quietly(
        self, folder: pathlib.Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """What was installed once is not installed again."""
        expected = program(cache(folder, "dolt-2.3.3/dolt"), "dolt version 2.3.3")
        assert toolchain.find(DOLT) == expected
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("broken", ["", "#!/bin/sh\nexit 1\n", "#!/bin/sh\necho dolt version 2.0.0\n"])
    def test_a_broken_cache_entry_is_replaced(self, folder: pathlib.Path, releases: str, broken: str) -> None:
        """A cached program that does not run, or is another version than its folder names, is fetched again."""
        entry = script(cache(folder, "dolt-2.3.3/dolt"), broken)
        assert toolchain.find(released(folder, releases, "dolt version 2.3.3")) == entry
        assert "2.3.3" in entry.read_text()

    def test_a_broken_cache_entry_that_cannot_be_replaced_is_removed(self, folder: pathlib.Path) -> None:
        """It is never used."""
        script(cache(folder, "dolt-2.3.3/dolt"), "#!/bin/sh\nexit 1\n")
        with pytest.raises(toolchain.ToolError):
            toolchain.find(DOLT)
        assert programs(folder) == []

    def test_a_cache_that_cannot_be_written_is_an_error(
        self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The error names the setting that moves the cache."""
        (folder / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "file"))
        with pytest.raises(toolchain.ToolError, match=r"cannot be written .*Set XDG_CACHE_HOME"):
            toolchain.find(DOLT)


class TestDownload:
    def test_a_download_with_the_right_checksum_is_installed(self, folder: pathlib.Path, releases: str) -> None:
        """The program comes out of the archive into the cache, and nothing else stays."""
        found = toolchain.find(released(folder, releases, "dolt version 2.3.3"))
        assert found == cache(folder, "dolt-2.3.3/dolt")
        assert subprocess.check_output([found, "version"], text=True) == "dolt version 2.3.3\n"
        assert programs(folder) == ["dolt-2.3.3/dolt"]

    def test_a_download_with_the_wrong_checksum_is_never_used(
        self, folder: pathlib.Path, releases: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """What is not the pinned file is reported as an error, deleted, and the next way is tried."""
        tool = released(folder, releases, "dolt version 2.3.3")
        asset = dataclasses.replace(tool.assets[pins.this_platform()], sha256="0" * 64)
        tool = dataclasses.replace(tool, assets={pins.this_platform(): asset})
        with pytest.raises(toolchain.ToolError, match=r"has sha256 [0-9a-f]{64}, expected 0{64}[\s\S]*build with Go"):
            toolchain.find(tool)
        assert len(re.findall("^dolt: ERROR: ", capfd.readouterr().err, re.MULTILINE)) == 1
        assert programs(folder) == []

    def test_a_download_that_does_not_run_is_not_kept(self, folder: pathlib.Path, releases: str) -> None:
        """A program is put into the cache only after it printed its version."""
        with pytest.raises(toolchain.ToolError, match=r"is 2\.0\.0, expected 2\.3\.3"):
            toolchain.find(released(folder, releases, "dolt version 2.0.0"))
        assert programs(folder) == []

    def test_a_server_that_cannot_be_reached_gives_one_quiet_line(self, capfd: pytest.CaptureFixture[str]) -> None:
        """No network is ordinary: one line, no traceback."""
        asset = Asset(f"http://127.0.0.1:{processes.free_port()}/dolt.tar.gz", "0" * 64, "dolt")
        with pytest.raises(toolchain.ToolError):
            toolchain.find(dataclasses.replace(DOLT, assets={pins.this_platform(): asset}))
        expected = "dolt: no release download here (Connection refused), trying Go\n"
        assert capfd.readouterr().err == expected

    def test_a_release_that_is_gone_gives_one_quiet_line(
        self, releases: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """A refusal by the server is reported by its number."""
        asset = Asset(f"{releases}/nothing.tar.gz", "0" * 64, "dolt")
        with pytest.raises(toolchain.ToolError):
            toolchain.find(dataclasses.replace(DOLT, assets={pins.this_platform(): asset}))
        assert capfd.readouterr().err == "dolt: no release download here (HTTP 404), trying Go\n"


class TestGo:
    @pytest.mark.skipif(GO is None, reason="needs go on PATH, to build a program with it")
    def test_a_build_with_go_is_installed(
        self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Go builds the wrapper module's package into the cache; a line says how long it takes."""
        assert GO is not None
        # Go's build cache is under XDG_CACHE_HOME too; an empty one would make this test slow.
        environment = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
        gocache = subprocess.check_output([GO, "env", "GOCACHE"], env=environment, text=True).strip()
        monkeypatch.setenv("GOCACHE", gocache)
        script(folder / "bin" / "go", f'#!/bin/sh\nexec "{GO}" "$@"\n')
        module = folder / "module"
        module.mkdir()
        (module / "go.mod").write_text("module example\n\ngo 1.21\n")
        (module / "main.go").write_text('package main\n\nfunc main() { println("dolt version 2.2.0") }\n')
        tool = dataclasses.replace(DOLT, go_module=module, go_package="example")
        assert toolchain.find(tool) == cache(folder, "dolt-2.2.0/dolt")
        assert programs(folder) == ["dolt-2.2.0/dolt"]
        assert "building dolt 2.2.0 with Go, about 4 minutes on 2 cores\n" in capfd.readouterr().err

    def test_progress_is_shown_while_go_builds(self, folder: pathlib.Path) -> None:
        """Minutes without a line look like a program that hangs."""
        script(folder / "bin" / "go", FAKE_GO.format(folder=folder))
        child = start(folder, "output")
        with ended(child):
            line = "still building dolt 2.2.0 with Go, "
            support.wait_for(lambda: line in (folder / "output").read_text(), "a line of progress")
            (folder / "leave").touch()
            assert child.wait(120) == 0

    def test_the_last_lines_of_a_failed_build_are_in_the_error(self, folder: pathlib.Path) -> None:
        """Go's own words name the cause."""
        script(folder / "bin" / "go", "#!/bin/sh\necho 'no such package' >&2\nexit 3\n")
        with pytest.raises(toolchain.ToolError, match=r"`go build` ended with 3, its last lines:\n +no such package"):
            toolchain.find(DOLT)
        assert programs(folder) == []

    def test_ctrl_c_leaves_nothing_behind(self, folder: pathlib.Path) -> None:
        """An interrupted build ends its children, removes what it began and prints no traceback."""
        script(folder / "bin" / "go", FAKE_GO.format(folder=folder))
        child = start(folder, "output")
        with ended(child):
            support.wait_for((folder / "started").exists, "go runs")
            go = int(support.wait_for((folder / "started").read_text, "its number"))
            # Go may run before the program that starts it has its number: from this line on it has.
            support.wait_for(lambda: "still building" in (folder / "output").read_text(), "a line of progress")
            child.send_signal(signal.SIGINT)
            assert child.wait(120) == 130
        with pytest.raises(ProcessLookupError):
            os.kill(go, 0)
        assert "Traceback" not in (folder / "output").read_text()
        assert [path.name for path in cache(folder, "").iterdir()] == ["dolt-2.3.3.lock"]

    def test_two_processes_do_not_build_the_same_at_once(self, folder: pathlib.Path) -> None:
        """The second waits for the first, shows progress, and uses what the first built."""
        script(folder / "bin" / "go", FAKE_GO.format(folder=folder))
        first = start(folder, "first")
        with ended(first):
            support.wait_for((folder / "started").exists, "go runs")
            second = start(folder, "second")
            with ended(second):
                line = "still waiting for the other process that installs dolt, "
                support.wait_for(lambda: line in (folder / "second").read_text(), "the second waits")
                (folder / "leave").touch()
                assert (first.wait(120), second.wait(120)) == (0, 0)
        assert len((folder / "started").read_text().splitlines()) == 1
        assert str(cache(folder, "dolt-2.2.0/dolt")) in (folder / "second").read_text().splitlines()


@pytest.fixture
def crds(folder: pathlib.Path, releases: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Schemas]:
    """Schemas in a module on a module proxy of this machine, pinned by a module of ours."""
    if GO is None:
        pytest.skip("needs go on PATH, to download a module with it")
    script(folder / "bin" / "go", f'#!/bin/sh\nexec "{GO}" "$@"\n')
    monkeypatch.setenv("GOPROXY", releases)
    monkeypatch.setenv("GOMODCACHE", str(folder / "modules"))
    files = {"go.mod": b"module example.com/crds\n", "config/a.yaml": b"a: 1\n", "config/a.go": b"package config\n"}
    served = folder / "releases" / "example.com" / "crds" / "@v"
    served.mkdir(parents=True)
    (served / "v1.0.0.info").write_text('{"Version": "v1.0.0"}')
    (served / "v1.0.0.mod").write_bytes(files["go.mod"])
    paths = {f"example.com/crds@v1.0.0/{name}": content for name, content in files.items()}
    with zipfile.ZipFile(served / "v1.0.0.zip", "w") as archive:
        for path, content in paths.items():
            archive.writestr(path, content)
    module = folder / "module"
    module.mkdir()
    (module / "go.mod").write_text("module example\n\ngo 1.24.0\n\nrequire example.com/crds v1.0.0\n")
    (module / "go.sum").write_text(
        f"example.com/crds v1.0.0 {go_sum(paths)}\n"
        f"example.com/crds v1.0.0/go.mod {go_sum({'go.mod': files['go.mod']})}\n"
    )
    yield Schemas("schemas", "1.0.0", module, {"example.com/crds": ("config/*.yaml",)})
    script(folder / "bin" / "go", f'#!/bin/sh\nexec "{GO}" "$@"\n')
    subprocess.run(["go", "clean", "-modcache"], check=True)  # its files are read-only


def go_sum(files: dict[str, bytes]) -> str:
    """Go's checksum of a module: of the list of its files' checksums, by name."""
    lines = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items()))
    return "h1:" + base64.b64encode(hashlib.sha256(lines.encode()).digest()).decode()


class TestSchemas:
    def test_the_files_come_out_of_the_pinned_module_once(
        self, folder: pathlib.Path, crds: Schemas, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """The files of the patterns and no others; a second call needs neither Go nor the network."""
        found = toolchain.schemas(crds)
        assert found == cache(folder, "schemas-1.0.0")
        assert programs(folder) == ["schemas-1.0.0/example.com/crds/config/a.yaml"]
        assert capfd.readouterr().err == "downloading example.com/crds for its schemas\n"
        (folder / "bin" / "go").unlink()
        assert toolchain.schemas(crds) == found
        assert capfd.readouterr().err == ""

    def test_a_module_that_is_not_the_pinned_one_is_never_used(self, folder: pathlib.Path, crds: Schemas) -> None:
        """Go compares the download with go.sum; what differs is an error, and nothing of it is kept."""
        sums = crds.go_module / "go.sum"
        sums.write_text(sums.read_text().replace("v1.0.0 h1:", "v1.0.0 h1:A"))
        with pytest.raises(toolchain.ToolError, match=r"does NOT match an earlier download recorded in go\.sum"):
            toolchain.schemas(crds)
        assert programs(folder) == []

    def test_a_file_that_is_not_there_is_an_error(self, folder: pathlib.Path, crds: Schemas) -> None:
        """A folder that was renamed upstream is an error, not ignored."""
        more = dataclasses.replace(crds, files={"example.com/crds": ("config/*.yaml", "resources/*.yaml")})
        with pytest.raises(toolchain.ToolError, match=r"example\.com/crds v1\.0\.0 holds no resources/\*\.yaml"):
            toolchain.schemas(more)
        assert programs(folder) == []

    def test_without_go_the_error_says_what_to_install(self) -> None:
        """Go is the only way to them."""
        with pytest.raises(toolchain.ToolError, match=r"no go on PATH\n.*install it \(https://go\.dev/dl\)"):
            toolchain.schemas()


class TestError:
    def test_when_nothing_works_the_error_names_every_way(self, folder: pathlib.Path) -> None:
        """Each way with its reason, and what to do."""
        program(folder / "bin" / "dolt", "dolt version 1.86.4")
        with pytest.raises(toolchain.ToolError) as caught:
            toolchain.find(DOLT)
        ways = [line.strip().split(":")[0] for line in str(caught.value).splitlines()[1:-1]]
        assert ways == ["PATH", "cache", "release download", "build with Go"]
        assert "1.86.4" in str(caught.value)
        assert "no go on PATH" in str(caught.value)
        assert str(caught.value).endswith("put it on PATH, or set DOLT to its path.")

    def test_the_command_prints_paths_alone_on_stdout(
        self, folder: pathlib.Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """A script can read them; all else goes to stderr."""
        dolt = program(folder / "bin" / "dolt", "dolt version 2.0.0")
        bd = program(folder / "bin" / "bd", "bd version 1.3.0")
        assert command.main([]) == 0
        assert capfd.readouterr().out == f"{dolt}\n{bd}\n"

    def test_the_command_runs_before_anything_is_installed(self) -> None:
        """It finds the programs in the standard library's Python: no installed package is needed."""
        code = "import sys; sys.path.insert(0, '.'); from tools.toolchain import __main__ as c; c.main(['--help'])"
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout[:6], done.stderr) == (0, "usage:", "")


class TestPins:
    @pytest.mark.parametrize(
        "tool",
        [pins.DOLT, pins.BD_1_3_0, pins.BD_1_0_2, pins.KUSTOMIZE],
        ids=lambda tool: f"{tool.name}-{tool.version}",
    )
    def test_downloads_are_pinned_by_checksum_over_https(self, tool: Tool) -> None:
        """A pin is a whole SHA-256, of an archive of that version."""
        assert tool.assets
        for (system, machine), asset in tool.assets.items():
            assert re.fullmatch("[0-9a-f]{64}", asset.sha256)
            assert asset.url.startswith("https://")
            assert f"/v{tool.version}/" in asset.url
            assert re.search(rf"{system}.{machine}\.tar\.gz$", asset.url)
        checksums = [asset.sha256 for asset in tool.assets.values()]
        assert len(set(checksums)) == len(checksums)

    @pytest.mark.parametrize(
        ("tool", "requirement"),
        [
            (pins.DOLT, "github.com/dolthub/dolt/go v0.40.5-0.20260715172757-a6690826d767"),
            (pins.BD_1_3_0, "github.com/steveyegge/beads v1.3.0"),
            (pins.BD_1_0_2, "github.com/steveyegge/beads v1.0.2"),
            (pins.KUSTOMIZE, "sigs.k8s.io/kustomize/kustomize/v5 v5.8.1"),
        ],
        ids=["dolt", "bd-1.3.0", "bd-1.0.2", "kustomize"],
    )
    def test_builds_are_pinned_by_a_module(self, tool: Tool, requirement: str) -> None:
        """The wrapper module requires the pinned version, and its checksums are there."""
        assert requirement in (tool.go_module / "go.mod").read_text()
        assert f"{requirement} h1:" in (tool.go_module / "go.sum").read_text()
        assert f'import _ "{tool.go_package}"' in (tool.go_module / "tools.go").read_text()

    def test_the_schemas_are_pinned_by_a_module(self) -> None:
        """It requires each module they come from, with its checksums, and their version names each one's."""
        schemas = pins.SCHEMAS
        required = dict(re.findall(r"^\t(\S+) v(\S+)$", (schemas.go_module / "go.mod").read_text(), re.MULTILINE))
        assert required.keys() == schemas.files.keys()
        for module, version in required.items():
            assert f"{module} v{version} h1:" in (schemas.go_module / "go.sum").read_text()
            assert version in schemas.version.split("-")
