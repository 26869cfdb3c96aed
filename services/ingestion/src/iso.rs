//! The codes of ISO 3166-1 and ISO 4217.

/// ISO 3166-1 alpha-2, sorted: the officially assigned ones.
const COUNTRIES: &str = "\
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ \
CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO \
FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE \
JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO \
MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW \
PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM \
TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW ";

/// ISO 4217, sorted: the active codes, and those withdrawn since 2020 (ANG, BGN, CUC, HRK, SLL, ZWL), which events of
/// those years still carry.
const CURRENCIES: &str = "\
AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF \
CHE CHF CHW CLF CLP CNY COP COU CRC CUC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD \
GNF GTQ GYD HKD HNL HRK HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP \
LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN \
PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SLL SOS SRD SSP STN SVC SYP SZL THB TJS \
TMT TND TOP TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS VED VES VND VUV WST XAD XAF XAG XAU XBA XBB XBC XBD \
XCD XCG XDR XOF XPD XPF XPT XSU XTS XUA XXX YER ZAR ZMW ZWG ZWL ";

/// Whether it is a country, in capitals.
pub(crate) fn is_country(code: &str) -> bool {
    const SET: [u64; 11] = set(COUNTRIES.as_bytes(), 2);
    contains(&SET, code.as_bytes(), 2)
}

/// Whether it is a currency, in capitals.
pub(crate) fn is_currency(code: &str) -> bool {
    const SET: [u64; 275] = set(CURRENCIES.as_bytes(), 3);
    contains(&SET, code.as_bytes(), 3)
}

/// One bit for each possible code: 26² or 26³.
const fn set<const WORDS: usize>(codes: &[u8], letters: usize) -> [u64; WORDS] {
    let mut set = [0; WORDS];
    let mut at = 0;
    while at < codes.len() {
        let mut number = 0;
        let mut letter = 0;
        while letter < letters {
            number = number * 26 + (codes[at + letter] - b'A') as usize;
            letter += 1;
        }
        set[number / 64] |= 1 << (number % 64);
        at += letters + 1;
    }
    set
}

fn contains(set: &[u64], code: &[u8], letters: usize) -> bool {
    if code.len() != letters || !code.iter().all(u8::is_ascii_uppercase) {
        return false;
    }
    let number = code.iter().fold(0, |number, letter| number * 26 + usize::from(letter - b'A'));
    set[number / 64] >> (number % 64) & 1 == 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn exactly_the_codes_of_the_tables_are_known() {
        let letters = || (b'A'..=b'Z').map(char::from);
        let countries = letters()
            .flat_map(|a| letters().map(move |b| format!("{a}{b}")))
            .filter(|code| is_country(code))
            .collect::<Vec<_>>();
        assert_eq!(countries, COUNTRIES.split_whitespace().collect::<Vec<_>>());
        assert_eq!(countries.len(), 249);
        let currencies = letters()
            .flat_map(|a| letters().flat_map(move |b| letters().map(move |c| format!("{a}{b}{c}"))))
            .filter(|code| is_currency(code))
            .collect::<Vec<_>>();
        assert_eq!(currencies, CURRENCIES.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn what_is_close_to_a_code_is_none() {
        for code in ["", "D", "de", "De", "DEU", "D ", "UK", "EU", "é"] {
            assert!(!is_country(code), "{code}");
        }
        for code in ["", "EU", "eur", "EURO", "E R", "BTC", "€", "DEM"] {
            assert!(!is_currency(code), "{code}");
        }
    }
}
