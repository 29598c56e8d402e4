"""Objects as HTML, for notebooks: tables of facts, and classes as bars."""

from alexnet.notebook.html import ShownAsBars, facts, table

__all__ = ["ShownAsBars", "facts", "table"]
