-- Leases of namespaces are for processes that share a server. A file has one process, whose own gate is enough.
SELECT 1;
