-- The three database users, each with no more than its process needs. Run it once, as an administrator of the Dolt
-- server, with your three passwords put in (docs/runbook.md, "Install", has the commands):
--
--   sed -e 's/FEEDER_PASSWORD/…/' -e 's/DISPATCH_PASSWORD/…/' -e 's/REAP_PASSWORD/…/' knative/users.sql | dolt … sql
--
-- It may be run again. Where bd's database is not called `beads`, replace `beads`. (in back quotes, with the full
-- stop) by yours: sed -e 's/`beads`\./`yours`./'
--
-- Tried on Dolt 2.2.0: EXECUTE is granted for two procedures and no others, because EXECUTE on the whole database
-- would allow dolt_reset too. What Dolt does not hold back: any user may SET PERSIST a server variable.

-- Ours, no bead's: the feed's position, the mirrored switch, the hold. The feeder makes the tables.
CREATE DATABASE IF NOT EXISTS beads_dispatch;

CREATE USER IF NOT EXISTS 'beads-feeder'@'%' IDENTIFIED BY 'FEEDER_PASSWORD';
CREATE USER IF NOT EXISTS 'beads-dispatch'@'%' IDENTIFIED BY 'DISPATCH_PASSWORD';
CREATE USER IF NOT EXISTS 'beads-reap'@'%' IDENTIFIED BY 'REAP_PASSWORD';

-- feeder: reads the binlog and the beads, writes no bead.
GRANT REPLICATION SLAVE ON *.* TO 'beads-feeder'@'%';
GRANT SELECT ON `beads`.* TO 'beads-feeder'@'%';
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE ON `beads_dispatch`.* TO 'beads-feeder'@'%';

-- dispatch: claims and records on a bead, tells it in events, makes it a Dolt commit; sets and clears the hold.
GRANT SELECT ON `beads`.* TO 'beads-dispatch'@'%';
GRANT UPDATE ON `beads`.`issues` TO 'beads-dispatch'@'%';
GRANT INSERT ON `beads`.`events` TO 'beads-dispatch'@'%';
GRANT EXECUTE ON PROCEDURE `beads`.`dolt_add` TO 'beads-dispatch'@'%';
GRANT EXECUTE ON PROCEDURE `beads`.`dolt_commit` TO 'beads-dispatch'@'%';
GRANT SELECT ON `beads_dispatch`.`switches` TO 'beads-dispatch'@'%';
GRANT SELECT, INSERT, UPDATE ON `beads_dispatch`.`holds` TO 'beads-dispatch'@'%';

-- reap: the same on a bead; knows no hold.
GRANT SELECT ON `beads`.* TO 'beads-reap'@'%';
GRANT UPDATE ON `beads`.`issues` TO 'beads-reap'@'%';
GRANT INSERT ON `beads`.`events` TO 'beads-reap'@'%';
GRANT EXECUTE ON PROCEDURE `beads`.`dolt_add` TO 'beads-reap'@'%';
GRANT EXECUTE ON PROCEDURE `beads`.`dolt_commit` TO 'beads-reap'@'%';
GRANT SELECT ON `beads_dispatch`.`switches` TO 'beads-reap'@'%';
