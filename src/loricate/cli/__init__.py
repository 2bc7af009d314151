"""The command line: flags become specs, one recipe runs, its outcome becomes an exit code.

A command is a file: ``cli/<name>.py`` defines a click command called ``command``, and
``loricate <name>`` finds it. Its first docstring line is its help line, read without importing
the file. Torch and everything else heavy is imported inside the function, so that every help
page works in a base install. A command returns ``None`` or an ``ExitCode``, and raises
``LoricateError``; ``main`` prints the message and picks the code.
"""
