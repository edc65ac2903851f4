"""One file, one kind of source: a frozen dataclass named by the module constant `SOURCE`.

`len(source)` says how many groups there are; `source[i]` is a tuple of `Example`s that share one picture, a pure
function of i.
"""
