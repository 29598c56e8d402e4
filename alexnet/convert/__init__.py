"""Weights of other formats to run directories, runs to other engines, towers joined and parted."""

from alexnet.convert.exporting import ExportReport, export_run
from alexnet.convert.importing import ImportReport, import_weights
from alexnet.convert.published import imagenet_convolutions
from alexnet.convert.towers import ConvertReport, convert_run

__all__ = [
    "ConvertReport",
    "ExportReport",
    "ImportReport",
    "convert_run",
    "export_run",
    "imagenet_convolutions",
    "import_weights",
]
