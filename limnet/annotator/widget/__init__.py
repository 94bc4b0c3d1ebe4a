"""The annotator in JupyterLab: `ClickWidget`, and what it is made of."""

from limnet.annotator.widget.widget import ClickWidget

__all__ = ["ClickWidget"]
