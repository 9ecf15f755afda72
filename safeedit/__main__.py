"""`python -m safeedit` is `safeedit`."""

from importlib import import_module

import_module("safeedit_cli.main").main()
