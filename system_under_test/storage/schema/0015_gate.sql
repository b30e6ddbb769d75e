-- The gate starts shut: balances are told once the maintenance process has verified the ledger for the first time, which
-- takes it a moment in a new database. Where the service has been open already, it stays so until its next verification.
update service_state set gate = 'shut', gate_reason = 'not verified yet'
where not exists (select from transfer) and not exists (select from reconciliation);
