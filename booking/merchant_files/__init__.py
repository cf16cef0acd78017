"""Bill files as payment channels give them (商户账单): read as a stream, checked against their own totals."""
