-- The four database users, each with the privileges that its process needs and no others. Run this file once, as an
-- administrator of the Dolt server, with your four passwords (docs/runbook.md, "Install", has the commands):
--
--   sed -e 's/FEEDER_PASSWORD/…/' -e 's/DISPATCH_PASSWORD/…/' -e 's/REAP_PASSWORD/…/' -e 's/OPERATOR_PASSWORD/…/' \
--     knative/users.sql | dolt … sql
--
-- You may run it again, also with other passwords; after an upgrade do, for what it grants since. If bd's database is
-- not called `beads`, replace `beads`. (in back quotes, with the full stop) by the name of yours, and where several
-- teams share the server, give each its own users and set DOLT_USER to them in its overlay:
--
--   sed -e 's/`beads`\./`yours`./' -e "s/'@'%'/-yours'@'%'/"
--
-- Tested on Dolt 2.2.0: EXECUTE is granted for two procedures only, because EXECUTE on the whole database would also
-- allow dolt_reset. Dolt cannot forbid that a user sets a server variable with SET PERSIST.

-- The system's own state: the feed's position, the mirrored suspension, the hold. The feeder makes the tables.
CREATE DATABASE IF NOT EXISTS beads_dispatch;

CREATE USER IF NOT EXISTS 'beads-feeder'@'%' IDENTIFIED BY 'FEEDER_PASSWORD';
CREATE USER IF NOT EXISTS 'beads-dispatch'@'%' IDENTIFIED BY 'DISPATCH_PASSWORD';
CREATE USER IF NOT EXISTS 'beads-reap'@'%' IDENTIFIED BY 'REAP_PASSWORD';
CREATE USER IF NOT EXISTS 'beads-operator'@'%' IDENTIFIED BY 'OPERATOR_PASSWORD';
-- Where the users were there already: their new passwords. Replace the Secret then; no pod has to be restarted.
ALTER USER 'beads-feeder'@'%' IDENTIFIED BY 'FEEDER_PASSWORD';
ALTER USER 'beads-dispatch'@'%' IDENTIFIED BY 'DISPATCH_PASSWORD';
ALTER USER 'beads-reap'@'%' IDENTIFIED BY 'REAP_PASSWORD';
ALTER USER 'beads-operator'@'%' IDENTIFIED BY 'OPERATOR_PASSWORD';

-- feeder: reads the binlog and the beads, and writes no bead.
GRANT REPLICATION SLAVE ON *.* TO 'beads-feeder'@'%';
GRANT SELECT ON `beads`.* TO 'beads-feeder'@'%';
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE ON `beads_dispatch`.* TO 'beads-feeder'@'%';

-- dispatch: writes its claim and its records on a bead, adds to events, makes a Dolt commit; sets and clears the hold.
GRANT SELECT ON `beads`.* TO 'beads-dispatch'@'%';
GRANT UPDATE ON `beads`.`issues` TO 'beads-dispatch'@'%';
GRANT INSERT ON `beads`.`events` TO 'beads-dispatch'@'%';
GRANT EXECUTE ON PROCEDURE `beads`.`dolt_add` TO 'beads-dispatch'@'%';
GRANT EXECUTE ON PROCEDURE `beads`.`dolt_commit` TO 'beads-dispatch'@'%';
GRANT SELECT ON `beads_dispatch`.`switches` TO 'beads-dispatch'@'%';
GRANT SELECT ON `beads_dispatch`.`layout` TO 'beads-dispatch'@'%';
GRANT SELECT ON `beads_dispatch`.`feeders` TO 'beads-dispatch'@'%';
GRANT SELECT, INSERT, UPDATE ON `beads_dispatch`.`agent_holds` TO 'beads-dispatch'@'%';
GRANT SELECT, INSERT, UPDATE ON `beads_dispatch`.`turns` TO 'beads-dispatch'@'%';

-- reap: the same on a bead; it sets the hold where jobs fail one after the other, and the end of a time without reports.
GRANT SELECT ON `beads`.* TO 'beads-reap'@'%';
GRANT UPDATE ON `beads`.`issues` TO 'beads-reap'@'%';
GRANT INSERT ON `beads`.`events` TO 'beads-reap'@'%';
GRANT EXECUTE ON PROCEDURE `beads`.`dolt_add` TO 'beads-reap'@'%';
GRANT EXECUTE ON PROCEDURE `beads`.`dolt_commit` TO 'beads-reap'@'%';
GRANT SELECT, UPDATE ON `beads_dispatch`.`feeders` TO 'beads-reap'@'%';
GRANT SELECT ON `beads_dispatch`.`switches` TO 'beads-reap'@'%';
GRANT SELECT ON `beads_dispatch`.`layout` TO 'beads-reap'@'%';
GRANT SELECT, INSERT, UPDATE ON `beads_dispatch`.`agent_holds` TO 'beads-reap'@'%';

-- operator: the console. It reads, and writes nothing.
GRANT SELECT ON `beads`.* TO 'beads-operator'@'%';
GRANT SELECT ON `beads_dispatch`.* TO 'beads-operator'@'%';
