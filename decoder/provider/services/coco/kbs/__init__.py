"""Key brokers (KBS): fetch keys as an attested guest, register keys as an administrator."""
