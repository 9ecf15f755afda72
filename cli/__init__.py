"""The command line of safeedit, installed as ``safeedit_cli``."""

if __name__ == "cli":
    raise ImportError("this folder is installed as 'safeedit_cli'; run `safeedit` or `python -m safeedit`")
