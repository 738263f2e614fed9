"""What a student learns from a teacher's feature maps, one file each (kind ``"distillation"`` of :mod:`hwsearch._registry`)."""
