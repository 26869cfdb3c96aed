-- Sums by the hour of the conversion and the hour of its record, written with every part: conversions, value, eligible
-- touches; those without a path; and by channel touches, linear parts, first touches, last touches, winners.
-- The expressions are those of the reports (src/rolled.rs): the engine finds the projection by them.
ALTER TABLE conversions ADD PROJECTION IF NOT EXISTS by_hour
(
    SELECT
        tenant, app_id, conversion, currency, toStartOfHour(time), toStartOfHour(recorded_at),
        sum(toInt64(sign)),
        sum(sign * toInt128(value_micros)),
        sum(sign * toInt64(countEqual(touch.verdict, 'eligible'))),
        sumIf(toInt64(sign), countEqual(touch.verdict, 'eligible') = 0),
        sumIf(sign * toInt128(value_micros), countEqual(touch.verdict, 'eligible') = 0),
        sumMap(mapFromArrays(path_channel, arrayWithConstant(countEqual(touch.verdict, 'eligible'), toInt64(sign)))),
        sumMap(mapFromArrays(path_channel, arrayWithConstant(countEqual(touch.verdict, 'eligible'), toInt128(sign * toInt64(round(1e12 / toInt64(greatest(countEqual(touch.verdict, 'eligible'), 1)))))))),
        sumMap(mapFromArrays(path_channel, arrayWithConstant(countEqual(touch.verdict, 'eligible'), sign * intDiv(toInt128(value_micros) * 2000000 + if(value_micros < 0, -toInt64(greatest(countEqual(touch.verdict, 'eligible'), 1)), toInt64(greatest(countEqual(touch.verdict, 'eligible'), 1))), toInt128(2 * toInt64(greatest(countEqual(touch.verdict, 'eligible'), 1))))))),
        sumMap(mapFromArrays(arraySlice(path_channel, 1, 1), arrayWithConstant(least(countEqual(touch.verdict, 'eligible'), 1), toInt64(sign)))),
        sumMap(mapFromArrays(arraySlice(path_channel, 1, 1), arrayWithConstant(least(countEqual(touch.verdict, 'eligible'), 1), sign * toInt128(value_micros)))),
        sumMap(mapFromArrays(arraySlice(path_channel, -1, 1), arrayWithConstant(least(countEqual(touch.verdict, 'eligible'), 1), toInt64(sign)))),
        sumMap(mapFromArrays(arraySlice(path_channel, -1, 1), arrayWithConstant(least(countEqual(touch.verdict, 'eligible'), 1), sign * toInt128(value_micros)))),
        sumMap(mapFromArrays(arraySlice(path_channel, countEqual(arraySlice(touch.verdict, 1, winner), 'eligible'), countEqual(arraySlice(touch.verdict, 1, winner), 'eligible') > 0), arrayWithConstant(toUInt64(countEqual(arraySlice(touch.verdict, 1, winner), 'eligible') > 0), toInt64(sign)))),
        sumMap(mapFromArrays(arraySlice(path_channel, countEqual(arraySlice(touch.verdict, 1, winner), 'eligible'), countEqual(arraySlice(touch.verdict, 1, winner), 'eligible') > 0), arrayWithConstant(toUInt64(countEqual(arraySlice(touch.verdict, 1, winner), 'eligible') > 0), sign * toInt128(value_micros))))
    GROUP BY tenant, app_id, conversion, currency, toStartOfHour(time), toStartOfHour(recorded_at)
)
