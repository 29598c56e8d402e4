"""Import of weights in other formats to run directories, and export of runs to other engines."""

from alexnet.convert.exporting import ExportReport, export_run
from alexnet.convert.importing import ImportReport, import_weights

__all__ = ["ExportReport", "ImportReport", "export_run", "import_weights"]
