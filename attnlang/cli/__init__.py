"""The command line: the compiler's stages as commands, one module a command.

Results go to stdout, messages to stderr. Exit codes: 0 fine, 1 the input is wrong, 2 attnlang is.
Modules import torch and the back half of the compiler inside functions only, so that `check` and
`--help` start at once.
"""
