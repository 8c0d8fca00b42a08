"""Key services, real or imitated."""
