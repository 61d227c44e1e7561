"""What a process uses: CPU time and memory, as Linux counts them in /proc."""

import os
import pathlib


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has used, in steps of 10 ms."""
    return parse_stat(pathlib.Path(f"/proc/{pid}/stat").read_text()) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int, field: str = "VmRSS") -> float:
    """Memory that a process holds now, MiB; `VmHWM`: the most that it held."""
    return parse_rss_kib(pathlib.Path(f"/proc/{pid}/status").read_text(), field) / 1024


def children(pid: int) -> list[int]:
    """A process and those that it started: gunicorn's worker is a child."""
    started = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in started for each in children(int(child)))]


def parse_stat(text: str) -> int:
    """utime + stime, in ticks. The name in parentheses may hold anything."""
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def parse_rss_kib(text: str, field: str = "VmRSS") -> int:
    """A field of /proc/<pid>/status, KiB."""
    line = next(line for line in text.splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])
