"""`python -m attnlang.cli`, for where the `attnlang` script is not on the path."""

from attnlang.cli.main import main

main()
