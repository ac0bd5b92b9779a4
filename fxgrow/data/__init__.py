"""Images to train and to score on: data that installs with fxgrow, or files that the user has. No downloads."""

from fxgrow.data.datasets import ImageDataset as ImageDataset
from fxgrow.data.sources import open_source as open_source
from fxgrow.data.sources import source_names as source_names
