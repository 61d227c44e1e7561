"""Reads Dolt's binlog: publishes each change of an assignee or a status, and requests passes."""
