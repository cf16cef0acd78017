"""改诊 and 替诊: sessions, segments and bookings that are moved, and sessions that another practitioner holds (ADR-0037)."""
