"""Policy documents and the relation catalogue that ship with safeedit (data only).

Reach them with ``importlib.resources.files("safeedit_policies")``; the folder is installed
as ``safeedit_policies`` so that nothing called ``policies`` becomes importable for users.
"""

if __name__ == "policies":
    raise ImportError("this folder is installed as 'safeedit_policies'; import it by that name")
