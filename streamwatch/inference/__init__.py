"""Face detection and the ensemble, batched across streams on one thread per device."""
