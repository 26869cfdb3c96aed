//! Scores and what is owed of them. Of two scores of one touch, or two values, the one with the earlier cause counts.

use async_trait::async_trait;
use fail::fail_point;
use model::EventHash;

use super::{
    Scylla,
    tables::{self, Place},
};
use crate::{
    ConversionScores, JourneyQuery, NewScores, Owed, ScoreKind, Scores, StoreError,
    kv::Table,
    scores::{OwedRow, ScoreRow, Stored, VALUE_AT, ValueRow, collected, owed_of},
};

#[async_trait]
impl Scores for Scylla {
    async fn scores(&self, queries: &[JourneyQuery]) -> Result<Vec<ConversionScores>, StoreError> {
        let place = |query: &JourneyQuery| of_conversion(EventHash::new(&query.tenant, &query.conversion_id));
        let rows = self.tables().read(queries.iter().map(|query| place(query).all()).collect()).await?;
        let decoded = rows.into_iter().map(|rows| {
            collected(rows.iter().map(|row| {
                Ok(match row.at == VALUE_AT {
                    true => Stored::Value(row.decode(Table::Scores)?),
                    false => Stored::Touch(row.decode(Table::Scores)?),
                })
            }))
        });
        decoded.collect()
    }

    async fn put_scores(
        &self,
        partition: u32,
        scores: &[NewScores],
        owed: &[Owed],
    ) -> Result<(), StoreError> {
        let mut writes = Vec::new();
        for new in scores {
            let place = of_conversion(EventHash::new(&new.tenant, &new.conversion_id));
            for score in &new.scores.touches {
                let at = EventHash::new(&new.tenant, &score.touch_id).0.to_vec();
                let row = ScoreRow::from(score.clone());
                writes.push(place.clone().write(at, &row, tables::first(new.cause)));
            }
            if let Some(value) = &new.scores.value {
                let row = ValueRow::from(value.clone());
                writes.push(place.write(VALUE_AT.to_vec(), &row, tables::first(new.cause)));
            }
        }
        for owed in owed {
            let stamp = tables::last(owed.cause.offset, owed.cause.index);
            writes.push(of_partition(partition, owed.kind).write(owed_at(owed), &OwedRow::from(owed), stamp));
        }
        fail_point!("journey_store::before_scores");
        self.tables().write(writes).await
    }

    async fn owed(&self, partition: u32, kind: ScoreKind, limit: usize) -> Result<Vec<Owed>, StoreError> {
        let mut read = of_partition(partition, kind).all();
        read.limit = limit;
        let rows = self.tables().read(vec![read]).await?.into_iter().flatten();
        rows.map(|row| Ok(row.decode::<OwedRow>(Table::Owed)?.owed(kind))).collect()
    }

    async fn settle(&self, partition: u32, owed: &[Owed]) -> Result<(), StoreError> {
        let tables = self.tables();
        for owed in owed {
            let place = of_partition(partition, owed.kind);
            let from = owed_at(owed);
            let to = [&from[..], &[0]].concat();
            // What is owed for a later cause has a higher stamp and stays.
            let stamp = tables::last(owed.cause.offset, owed.cause.index);
            self.cql.cut(&tables.epoch, &place, from, to, stamp).await?;
        }
        Ok(())
    }
}

fn of_conversion(conversion: EventHash) -> Place {
    Place::new(Table::Scores, conversion.0.to_vec())
}

fn of_partition(partition: u32, kind: ScoreKind) -> Place {
    Place::new(Table::Owed, owed_of(partition, kind).to_vec())
}

fn owed_at(owed: &Owed) -> Vec<u8> {
    EventHash::new(&owed.tenant, &owed.conversion_id).0.to_vec()
}
