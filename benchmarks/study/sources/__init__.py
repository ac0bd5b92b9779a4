"""Where the data come from: generators and data sets that install with the extra ``study``, and nothing downloaded."""

from study.sources.source import Source as Source
