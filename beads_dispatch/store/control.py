"""What suspends or holds dispatch and reap."""

from collections.abc import Mapping
from datetime import UTC

from beads_dispatch import suspension
from beads_dispatch.store.feeders import Feeders
from beads_dispatch.store.records import Hold
from beads_dispatch.store.session import STATE_DATABASE, ReadSession, naive
from beads_dispatch.suspension import Suspension


class ConfiguredSuspension:
    """bd's config alone: the part of it that has a history. Raises StoreError."""

    def __init__(self, session: ReadSession) -> None:
        self._session = session

    def configured(self) -> Suspension:
        """What bd's config suspends."""
        return suspension.from_config(self._config(*suspension.SUSPEND_KEYS))

    def _config(self, *keys: str) -> dict[str, str]:
        rows = self._session.rows("SELECT `key`, `value` FROM config WHERE `key` IN %(keys)s", {"keys": keys})
        return {row["key"]: row["value"] for row in rows}


class Control(ConfiguredSuspension):
    """Suspension by bd's config and by the PingSources, and the hold. Every method raises StoreError."""

    def suspension(self) -> Suspension:
        """Who has suspended dispatch or reap: bd's config, the PingSource as the feeder mirrors it, or that another
        clone of the database is the one that dispatches."""
        own = self.own()
        if own.dispatch and own.reap:
            return own
        mirrored = self.mirrored()
        return Suspension(mirrored.dispatch or own.dispatch, mirrored.reap or own.reap)

    def own(self) -> Suspension:
        """What the database itself says: its config, or that another clone of it dispatches."""
        return self.of_values(self._config(*suspension.SUSPEND_KEYS, suspension.REPLICA_KEY))

    def of_values(self, values: Mapping[str, str]) -> Suspension:
        """As own, from these values of the config."""
        found, replica = suspension.from_config(values), values.get(suspension.REPLICA_KEY)
        if replica:
            feeder = Feeders(self._session).find()
            own = feeder.beat.replica if feeder else ""
            if replica.strip() != own:
                reason = suspension.by_replica(replica, own)
                return Suspension(reason, reason)
        return found

    def mirrored(self) -> Suspension:
        """What the PingSources suspend."""
        dispatch = reap = None
        for row in self._session.state_rows("SELECT name, suspended FROM {state}.switches WHERE feed = %(feed)s"):
            if row["suspended"]:
                reason = f"PingSource {row['name']} has suspend=true"
                dispatch = reason if row["name"] == "dispatch" else dispatch
                reap = reason if row["name"] == "reap" else reap
        return Suspension(dispatch, reap)

    def dispatching_replica(self) -> str | None:
        """The id of the clone that dispatches; None where nobody said which does."""
        return self._config(suspension.REPLICA_KEY).get(suspension.REPLICA_KEY) or None

    def set_configured(self, *, dispatch: bool, reap: bool) -> None:
        """What `bd kv set auto-dispatch.suspend` does, in the place of both keys. It counts from here on."""
        self._session.rows(
            "INSERT INTO config (`key`, `value`) VALUES (%(key)s, %(value)s)"
            " ON DUPLICATE KEY UPDATE `value` = %(value)s",
            {"key": suspension.KV_KEY, "value": suspension.to_config(dispatch=dispatch, reap=reap)},
        )
        self._session.rows("DELETE FROM config WHERE `key` = %(key)s", {"key": suspension.CONFIG_KEY})

    def commit_configured(self, actor: str) -> None:
        """Make a Dolt commit of bd's config: what is not committed there holds up `bd dolt pull`."""
        values = {"message": "beads-dispatch: suspend or resume", "author": f"{actor} <{actor}@localhost>"}
        self._session.rows("CALL DOLT_ADD('config')")
        self._session.rows("CALL DOLT_COMMIT('--skip-empty', '-m', %(message)s, '--author', %(author)s)", values)
        self._session.rows("COMMIT")  # see session.py

    def mirror_pingsource(self, name: str, suspended: bool) -> None:
        """Store whether a PingSource (`dispatch` or `reap`) is suspended."""
        self._session.rows(
            f"REPLACE INTO {STATE_DATABASE}.switches (feed, name, suspended)"
            " VALUES (%(feed)s, %(name)s, %(suspended)s)",
            {"feed": self._session.dolt.feed, "name": name, "suspended": suspended},
        )

    def hold(self, agent: str) -> Hold:
        """The hold on an agent."""
        return self.holds().get(agent, Hold())

    def holds(self) -> dict[str, Hold]:
        """The holds by agent; one that is over may be among them."""
        rows = self._session.state_rows(
            "SELECT agent, failures, held_until, reason FROM {state}.agent_holds WHERE feed = %(feed)s ORDER BY agent"
        )
        return {
            row["agent"]: Hold(
                row["failures"], row["held_until"].replace(tzinfo=UTC) if row["held_until"] else None, row["reason"]
            )
            for row in rows
        }

    def set_hold(self, agent: str, known: Hold, new: Hold) -> None:
        """Replace the hold on an agent, unless somebody else did since `known` was read."""
        name = {"agent": agent}
        if agent not in self.holds():
            self._session.state_rows(
                "INSERT IGNORE INTO {state}.agent_holds (feed, agent, failures, reason)"
                " VALUES (%(feed)s, %(agent)s, 0, '')",
                name,
            )
        self._session.state_rows(
            "UPDATE {state}.agent_holds SET failures = %(failures)s, held_until = %(until)s, reason = %(reason)s"
            " WHERE feed = %(feed)s AND agent = %(agent)s AND failures = %(known)s",
            {
                **name,
                "failures": new.failures,
                "until": naive(new.until) if new.until else None,
                "reason": new.reason[:255],
                "known": known.failures,
            },
        )
