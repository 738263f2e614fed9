"""The search spaces that come with hwsearch: one file each, plain data through a lowering such as :class:`hwsearch.spaces.Chain`."""
