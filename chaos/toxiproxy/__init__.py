"""A TCP proxy whose faults are changed over HTTP while it runs: compatible with Toxiproxy 2.12.0.

    client <-> Side | Link upstream   -> toxics -> | Side <-> upstream server
                    | Link downstream <- toxics <- |

`toxics/` says what each fault does to a stream, without sockets and clocks of its own; `link` moves data through them;
`connection` and `proxy` own the sockets; `collection` is what the HTTP interface (`api`, `extras`) changes.
"""
