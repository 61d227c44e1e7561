"""Can this server's binlog be read? A finding names the variable, its value, the value needed and the command. Pure."""

from collections.abc import Mapping

OLDEST = (1, 87, 0)

# Server variables that are read at its start only, and the values that will do.
_NEEDED = {
    "log_bin": ("1", "ON"),
    "gtid_mode": ("ON",),
    "enforce_gtid_consistency": ("ON",),
    "binlog_row_metadata": ("FULL",),  # column names in the events
}


class Unfit(Exception):
    """The server's binlog cannot be read. The text names what to set."""


def require(variables: Mapping[str, str]) -> None:
    """Raises Unfit when there are findings."""
    found = findings(variables)
    if found:
        raise Unfit(" ".join(found))


def findings(variables: Mapping[str, str]) -> list[str]:
    """What is wrong with a server whose variables (and `dolt_version`) these are; empty when nothing is."""
    found = []
    version = variables["dolt_version"]
    if _version(version) < OLDEST:
        found.append(
            f"dolt_version() is {version}, needed 1.87.0 or newer: before it, the binlog breaks the server's own"
            " writers. Install a newer Dolt."
        )
    for name, fit in _NEEDED.items():
        value = variables[name]
        if value.upper() not in fit:
            setting = "1" if name == "log_bin" else f'"{fit[-1]}"'
            found.append(
                f"{name} is {value}, needed {fit[-1]}. Run `dolt sql -q 'SET PERSIST {name} = {setting}'` (or put"
                f" `{name}: {setting}` under system_variables in the server's config.yaml) and restart the server."
            )
    return found


def _version(text: str) -> tuple[int, ...]:
    numbers = text.split("-")[0].split(".")
    return tuple(int(number) if number.isdigit() else 0 for number in numbers)
