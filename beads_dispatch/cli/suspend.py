"""beads-dispatch suspend and resume: the switch in bd's config, set as `bd config set` does it."""

from collections.abc import Sequence
from dataclasses import dataclass

from beads_dispatch.cli import terminal
from beads_dispatch.store import Store

BOTH = ("dispatch", "reap")


@dataclass(frozen=True)
class Switched:
    """The switch after it was moved: who says stop, in words; None where nobody does."""

    dispatch: str | None
    reap: str | None


def move(beads: Store, names: Sequence[str], *, suspend: bool) -> Switched:
    """Suspend or resume dispatch, reap or both, and leave the other as it is. Raises StoreError."""
    found = beads.control.configured()
    dispatch, reap = found.dispatch is not None, found.reap is not None
    beads.control.set_configured(
        dispatch=suspend if "dispatch" in names else dispatch, reap=suspend if "reap" in names else reap
    )
    found = beads.control.suspension()
    return Switched(found.dispatch, found.reap)


def lines(found: Switched, names: Sequence[str], *, suspend: bool) -> list[str]:
    """What became of each; and what else still says stop."""
    written = []
    for name in names:
        said = found.dispatch if name == "dispatch" else found.reap
        if suspend:
            written.append(f"{name} is suspended; `beads-dispatch resume {name}` starts it again")
        elif said is None:
            written.append(f"{name} is on")
        else:
            written.append(
                f"{name} is still suspended: {terminal.text(said, 120)}; `kn source ping resume {name}` takes that away"
            )
    return written
