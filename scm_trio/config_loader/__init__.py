"""Files and the environment -> ``config.Config``, with errors that name key, value, expected type and line.

file --sources--> nodes <--vendors, variables-- environment; nodes --reading, values--> Config --checks--> done.
``keys`` derives every key from the classes of ``config.py``, so that a new field there needs no line here.
"""

from scm_trio.config_loader.loading import Loaded, load, load_config
from scm_trio.config_loader.printing import Reference, effective, reference

__all__ = ["Loaded", "Reference", "effective", "load", "load_config", "reference"]
