"""Tails Dolt's binlog: tells every assignee and status change, and asks for work when there is some."""
