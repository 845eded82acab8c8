"""The command line: `microclaw COMMAND`.

One file a command, named in `commands.COMMANDS`; each has `arguments(parser)` and `run(context, options)` and is
imported only when it is called. The CLI reads nothing but by the bus, supervisord and the log files; the only file it
writes is the configuration (and what its chat has shown already).
"""
